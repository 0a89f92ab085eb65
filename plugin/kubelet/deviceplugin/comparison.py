"""What kubelet counts for our resources, against what we list.

It tells of a plugin for the same resource whose socket's name does not say what it serves. Should
it list the same ids as we do, nothing differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

#: Kubelet takes a list at once; that long it may take a busy one. What differs longer is not ours.
SETTLE_SECONDS = 10.0

#: Resource → ids of the devices that kubelet may hand out.
Counted = Mapping[str, frozenset[str]]


class Listing(Struct, frozen=True):
    """The ids that we list as healthy, under the registration of that number."""

    registration: int
    ids: frozenset[str]


class Difference(Struct, frozen=True):
    """Kubelet counts other ids than these, ``since`` that time. ``lasts`` when it was seen again
    after kubelet had time to take the list.
    """

    listing: Listing
    since: float
    lasts: bool = False


def compare(
    before: Mapping[str, Difference], listed: Mapping[str, Listing], counted: Counted, now: float
) -> dict[str, Difference]:
    """The differences by resource, after an answer of kubelet. A list that has changed has its time
    anew, unless the difference has lasted already.
    """
    result = {}
    for resource, listing in listed.items():
        if counted.get(resource, frozenset()) == listing.ids:
            continue
        last = before.get(resource)
        goes_on = last is not None and (last.lasts or last.listing == listing)
        since = last.since if last is not None and goes_on else now
        result[resource] = Difference(listing, since, now - since >= SETTLE_SECONDS)
    return result
