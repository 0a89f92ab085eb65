"""What labels stay as they were: those that an earlier process could tell and this one cannot."""

from __future__ import annotations

from plugin.core.cluster import number
from plugin.core.inventory.profiles import GPU_RESOURCE, RESOURCE_PREFIX
from plugin.core.labels.node import COUNT, PRODUCT, Labels, Values

_MIG = f"{RESOURCE_PREFIX}mig-"
#: Of the machine, not of its devices.
_OTHERS = frozenset({f"{GPU_RESOURCE}.machine", f"{GPU_RESOURCE}.mode"})


def settled(found: Labels, before: Values, geometry: int) -> Values:
    """`found`, completed from `before`: what an earlier process wrote about the same node.

    A GPU that does not answer must not change a count just because the daemon was restarted. So
    while one is silent, `before` holds if it says the same of at least as many devices, until this
    process sees the node change (`geometry` counts how often it has, from 1).
    """
    held = {key: value for key, value in before.items() if _describes_devices(key)}
    if found.complete or geometry > 1 or not _is_part(found.values, held):
        return found.values
    counts = {key: value for key, value in held.items() if key.endswith(COUNT)}
    return dict(sorted({**held, **found.values, **counts}.items()))


def _is_part(some: Values, more: Values) -> bool:
    if some.get(PRODUCT) != more.get(PRODUCT) or not _counts(some) <= _counts(more):
        return False
    return all(
        _count(value) <= _count(more[key]) if key.endswith(COUNT) else value == more[key]
        for key, value in some.items()
        if key in more
    )


def _describes_devices(key: str) -> bool:
    return key.startswith((f"{GPU_RESOURCE}.", _MIG)) and key not in _OTHERS


def _counts(values: Values) -> set[str]:
    return {key for key in values if key.startswith(_MIG) and key.endswith(COUNT)}


def _count(text: str) -> int:
    """What is no number, from somebody who edits the file, is less than any."""
    found = number(text)
    return -1 if found is None else found
