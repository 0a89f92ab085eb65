"""Allocations: which pod holds which device, after each answer of kubelet's pod resources API.

After its start, kubelet's ``List`` returns no pods at first, then some, then all; without an API
server the list stays incomplete. So an answer that lacks earlier holders counts only once it is
confirmed; until then the earlier holders remain. All times are of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.advertise.listed import device_uuid
from plugin.core.view import Holder

#: Answers must look complete for this long before they are trusted. Measured on a small machine:
#: two seconds from kubelet's start to its full list.
SETTLE_SECONDS = 10.0
#: The same if our own pod is not listed; its presence proves that the API server's pods are there.
LONG_SETTLE_SECONDS = 60.0
#: Kubelet lists a device right after Allocate; an id that is still not listed went to no pod.
HANDED_OUT_SECONDS = 10.0
#: Allocations that no answer confirmed or refuted expire after this.
FORGOTTEN_SECONDS = 3600.0
#: Confirmed holders are stale after this.
STALE_SECONDS = 90.0

#: Device id → holders. Shared devices have one id per replica (``uuid::n``).
Holders = Mapping[str, tuple[Holder, ...]]

_NOBODY: Holders = MappingProxyType({})


class Answer(Struct, frozen=True):
    """One answer of pod resources, requested at ``at``.

    ``kubelet`` identifies the process that answered (``None`` if it was replaced during the call)
    and ``up`` is its uptime in seconds. ``pods`` counts all listed pods, ``own`` is true if ours is
    one of them. ``checkpoint`` has the ids that kubelet's checkpoint assigns to containers,
    ``None`` if not read. The file lists ended pods until kubelet writes it again, and never lacks a
    running one.
    """

    at: float
    kubelet: Hashable | None
    up: float
    holders: Holders
    pods: int
    own: bool = False
    checkpoint: frozenset[str] | None = None


class Holdings(Struct, frozen=True):
    """``holders`` are all that may still hold a device. ``handed_out`` are allocated ids that no
    answer has listed yet, with the times. ``confirmed`` is when this was last complete for certain.
    ``trusted``: the last answer was complete; ``doubted``: since when that is not so; ``settling``:
    since when untrusted answers have looked complete. ``vouched`` is the last trusted kubelet.
    """

    holders: Holders = field(default_factory=lambda: _NOBODY)
    handed_out: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    confirmed: float | None = None
    trusted: bool = False
    silent: bool = False
    kubelet: Hashable | None = None
    own_seen: bool = False
    vouched: Hashable | None = None
    doubted: float | None = None
    settling: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether a device without a holder is free, rather than unknown."""
        return self.confirmed is not None

    @property
    def certainly_free(self) -> bool:
        """Whether the last answer was complete and nothing is held."""
        return self.trusted and not self.silent and not self.holders and not self.handed_out


def answered(before: Holdings, answer: Answer) -> Holdings:
    """The holdings after an answer. An answer without a checkpoint may stay untrusted; the caller
    may then pass the same answer with one.
    """
    same = answer.kubelet is not None and answer.kubelet == before.kubelet
    whole = _looks_whole(before, answer)
    keeps_trust = (
        before.trusted and same and whole and answer.pods > 0 and not _loses_many(before, answer)
    )
    # The settle time starts with the first answer of this kubelet that looks complete.
    known_settling = before.settling if same and not before.trusted else None
    settling = (answer.at if known_settling is None else known_settling) if whole else None
    trusted = keeps_trust or _is_confirmed(before, answer, settling)
    own_seen = before.own_seen or answer.own
    if trusted:
        return Holdings(
            holders=answer.holders,
            handed_out=_still_handed_out(before, answer),
            confirmed=answer.at,
            trusted=True,
            kubelet=answer.kubelet,
            own_seen=own_seen,
            vouched=answer.kubelet,
        )
    return replace(
        before,
        holders=_both(before.holders, answer.holders),
        handed_out={
            name: at for name, at in before.handed_out.items() if name not in answer.holders
        },
        trusted=False,
        silent=False,
        kubelet=answer.kubelet,
        own_seen=own_seen,
        doubted=answer.at if before.doubted is None else before.doubted,
        settling=settling,
    )


def unanswered(before: Holdings) -> Holdings:
    """Kubelet did not answer: the last known holders remain until they are stale."""
    return replace(before, silent=True)


def handed_out(before: Holdings, ids: Iterable[str], now: float) -> Holdings:
    """After an Allocate, until kubelet lists the ids."""
    # Without pod resources nothing else removes them.
    recent = {name: at for name, at in before.handed_out.items() if now - at < FORGOTTEN_SECONDS}
    return replace(before, handed_out={**recent, **dict.fromkeys(ids, now)})


def as_of(holdings: Holdings, now: float) -> Holdings:
    """The holdings at a later time, when they may be stale."""
    confirmed = holdings.confirmed
    stale = confirmed is not None and now - confirmed > STALE_SECONDS
    return replace(holdings, confirmed=None) if stale else holdings


def of_devices(holders: Holders, uuids: Collection[str]) -> Holders:
    """The holders of these devices and their replicas."""
    return {name: who for name, who in holders.items() if device_uuid(name) in uuids}


def containers(holders: Holders) -> list[str]:
    """Every holder once, as text, in order."""
    return [str(holder) for holder in sorted({each for who in holders.values() for each in who})]


def to_json(holdings: Holdings, uuids: Collection[str], now: float) -> dict[str, Any]:
    """These devices' holdings, for ``drain``; ``handedOut`` has seconds since the allocation."""
    return {
        "holders": {
            name: [[holder.namespace, holder.pod, holder.container] for holder in who]
            for name, who in of_devices(holdings.holders, uuids).items()
        },
        "handedOut": {
            name: now - at for name, at in holdings.handed_out.items() if device_uuid(name) in uuids
        },
        "ownPodListed": holdings.own_seen,
    }


def from_json(document: Mapping[str, Any], now: float) -> Holdings:
    """Another process's holdings. Nothing counts as confirmed in this process."""
    return Holdings(
        holders={
            name: tuple(Holder(*names) for names in who)
            for name, who in document["holders"].items()
        },
        handed_out={name: now - age for name, age in document["handedOut"].items()},
        own_seen=document["ownPodListed"],
    )


def conflicts(holders: Holders) -> tuple[str, ...]:
    """A sentence for each id that several pods hold; containers of one pod may share an id."""
    found = []
    for name, who in sorted(holders.items()):
        pods = sorted({(holder.namespace, holder.pod) for holder in who})
        if len(pods) > 1:
            names = ", ".join("/".join(pod) for pod in pods)
            found.append(
                f"{name} is held by {len(pods)} pods: {names}; older kubelets also list pods "
                "that have ended"
            )
    return tuple(found)


def _looks_whole(before: Holdings, answer: Answer) -> bool:
    """Whether the answer may be complete. An empty list is credible only from a kubelet that has
    listed pods before.
    """
    has_ours = answer.own or not before.own_seen
    has_any = answer.pods > 0 or (answer.kubelet is not None and answer.kubelet == before.vouched)
    return has_ours and has_any


def _is_confirmed(before: Holdings, answer: Answer, settling: float | None) -> bool:
    """Whether an untrusted answer becomes trusted."""
    if answer.checkpoint is not None and answer.kubelet is not None:
        if answer.checkpoint <= answer.holders.keys():
            return True  # every id that kubelet assigned is listed
    elif settling is not None and before.kubelet is None and before.doubted is None:
        # Our first answer, from a kubelet that has been up for long.
        return answer.kubelet is not None and answer.up >= LONG_SETTLE_SECONDS
    patience = SETTLE_SECONDS if answer.own else LONG_SETTLE_SECONDS
    return settling is not None and answer.at - settling >= patience


def _loses_many(before: Holdings, answer: Answer) -> bool:
    """Whether most of several pods vanished at once: suspicious."""
    held, holds = _pods(before.holders), _pods(answer.holders)
    lost = len(held - holds)
    return lost > 1 and 2 * lost > len(held)


def _pods(holders: Holders) -> set[tuple[str, str]]:
    return {(holder.namespace, holder.pod) for who in holders.values() for holder in who}


def _both(one: Holders, other: Holders) -> Holders:
    return {
        name: tuple(sorted({*one.get(name, ()), *other.get(name, ())}))
        for name in (*one, *(name for name in other if name not in one))
    }


def _still_handed_out(before: Holdings, answer: Answer) -> Mapping[str, float]:
    return {
        name: at
        for name, at in before.handed_out.items()
        if name not in answer.holders and answer.at - at < HANDED_OUT_SECONDS
    }
