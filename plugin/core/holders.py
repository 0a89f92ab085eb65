"""Who holds which device: what is known after each answer of kubelet's pod resources.

Kubelet answers ``List`` with no pods at first after its start, then with some, then with all, and
an API server that is away makes that last. So an answer from which holders are missing counts only
once it is confirmed; until then nobody is believed gone. All times are of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from plugin.core.advertise.listed import device_uuid
from plugin.core.view import Holder

#: How long a kubelet's answers must look whole before they are taken for whole: seen were two
#: seconds from its start to its full list, on a small machine.
SETTLE_SECONDS = 10.0
#: The same where our own pod is not listed, which would prove that the API server's pods are there.
LONG_SETTLE_SECONDS = 60.0
#: Kubelet lists a device right after Allocate; one that no list names by then went to no pod.
HANDED_OUT_SECONDS = 10.0
#: An allocation that no answer has settled by then is forgotten.
FORGOTTEN_SECONDS = 3600.0
#: What was confirmed so long ago is not known any more.
STALE_SECONDS = 90.0

#: Device id → who holds it. Ids of shared devices are those of their replicas (``uuid::n``).
Holders = Mapping[str, tuple[Holder, ...]]

_NOBODY: Holders = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of pod resources, asked for ``at`` that time.

    ``kubelet`` identifies the process that answered, ``None`` when it was replaced meanwhile, and
    ``up`` is for how many seconds it has been listening. ``pods`` counts all pods listed, with
    devices or without; ``own`` tells whether ours is among them. ``checkpoint`` are the ids that
    kubelet's checkpoint gives to containers, ``None`` when it was not read. The file keeps what a
    pod held after its end, until kubelet writes it again, but never lacks what a running one holds.
    """

    at: float
    kubelet: Hashable | None
    up: float
    holders: Holders
    pods: int
    own: bool = False
    checkpoint: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is known about who holds devices.

    ``holders`` are all who may still hold one. ``handed_out`` are ids that we allocated and that no
    answer has named yet, with the times. ``confirmed`` is when it was last certain that there are
    no other holders. ``trusted`` tells that the last answer was whole, and ``doubted`` since when
    that is not so; ``settling`` is since when answers have looked whole, while not trusted.
    ``vouched`` is the newest kubelet that was trusted.
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
        """Whether a device without a holder is free; otherwise that is unknown."""
        return self.confirmed is not None

    @property
    def certainly_free(self) -> bool:
        """Whether the last answer was whole and nothing is held."""
        return self.trusted and not self.silent and not self.holders and not self.handed_out


def answered(before: Holdings, answer: Answer) -> Holdings:
    """Take an answer in. Without a checkpoint it may stay untrusted; the same answer with one may
    then be taken in instead.
    """
    same = answer.kubelet is not None and answer.kubelet == before.kubelet
    whole = _looks_whole(before, answer)
    keeps_trust = (
        before.trusted and same and whole and answer.pods > 0 and not _loses_many(before, answer)
    )
    # While in doubt the clock runs from the first answer of this kubelet that looks whole.
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
    """Kubelet did not answer: what was known stays, until it is stale."""
    return replace(before, silent=True)


def handed_out(before: Holdings, ids: Iterable[str], now: float) -> Holdings:
    """We answered an Allocate; kubelet records it a moment later."""
    # Where nobody asks kubelet, nothing else would ever take them out.
    recent = {name: at for name, at in before.handed_out.items() if now - at < FORGOTTEN_SECONDS}
    return replace(before, handed_out={**recent, **dict.fromkeys(ids, now)})


def as_of(holdings: Holdings, now: float) -> Holdings:
    """What is left of it at that time: what was not confirmed for long is not known any more."""
    confirmed = holdings.confirmed
    stale = confirmed is not None and now - confirmed > STALE_SECONDS
    return replace(holdings, confirmed=None) if stale else holdings


def of_devices(holders: Holders, uuids: Collection[str]) -> Holders:
    """The part that is about these devices and their replicas."""
    return {name: who for name, who in holders.items() if device_uuid(name) in uuids}


def containers(holders: Holders) -> list[str]:
    """Everybody who holds something, in words and in order."""
    return [str(holder) for holder in sorted({each for who in holders.values() for each in who})]


def to_json(holdings: Holdings, uuids: Collection[str], now: float) -> dict[str, Any]:
    """What the daemon passes to ``drain`` about these devices; ``handedOut`` are ids and how many
    seconds ago that was.
    """
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
    """What another process knew at this moment. Nothing in it counts as confirmed here."""
    return Holdings(
        holders={
            name: tuple(Holder(*names) for names in who)
            for name, who in document["holders"].items()
        },
        handed_out={name: now - age for name, age in document["handedOut"].items()},
        own_seen=document["ownPodListed"],
    )


def conflicts(holders: Holders) -> tuple[str, ...]:
    """A sentence for each id that several pods hold; containers of one pod may hand one on."""
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
    """Whether the answer may be all there is. A node without a single pod is believed only of a
    kubelet that has listed pods before.
    """
    has_ours = answer.own or not before.own_seen
    has_any = answer.pods > 0 or (answer.kubelet is not None and answer.kubelet == before.vouched)
    return has_ours and has_any


def _is_confirmed(before: Holdings, answer: Answer, settling: float | None) -> bool:
    """Whether an answer that was in doubt is taken for whole."""
    if answer.checkpoint is not None and answer.kubelet is not None:
        if answer.checkpoint <= answer.holders.keys():
            return True  # kubelet has given nothing to anybody whom it does not list
    elif settling is not None and before.kubelet is None and before.doubted is None:
        # The first answer that we get, of a kubelet that has been there for long.
        return answer.kubelet is not None and answer.up >= LONG_SETTLE_SECONDS
    patience = SETTLE_SECONDS if answer.own else LONG_SETTLE_SECONDS
    return settling is not None and answer.at - settling >= patience


def _loses_many(before: Holdings, answer: Answer) -> bool:
    """Whether most of several pods are gone at once, which need not be true."""
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
