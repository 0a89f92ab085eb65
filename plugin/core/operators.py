"""The steps of the state that an operator's commands make, and those of partitioning."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import MappingProxyType

from msgspec.structs import replace

from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.health import ledger as ledgers
from plugin.core.health.faults import probe_faults
from plugin.core.health.recovery import GpuHealth
from plugin.core.news import (
    Command,
    Commanded,
    ReleaseAsked,
    ReleaseDone,
    ReleaseOver,
)
from plugin.core.release import Phase, Release
from plugin.core.state import State, Step, decide, escalation


def cordoned(state: State, uuid: str, now: float) -> Step:
    ledger = ledgers.cordon(state.snapshot.ledger, uuid, state.snapshot.inventory, now)
    return Step(decide(state, ledger=ledger), (Commanded(Command.CORDON, uuid),))


def uncordoned(state: State, uuid: str) -> Step:
    ledger = ledgers.uncordon(state.snapshot.ledger, uuid)
    return Step(decide(state, ledger=ledger), (Commanded(Command.UNCORDON, uuid),))


def cleared(state: State, uuid: str, now: float) -> Step:
    """Every fault of a device goes. What its GPU itself said when last asked still holds, so that
    kubelet does not see it healthy in between.
    """
    snapshot = state.snapshot
    ledger = ledgers.clear(snapshot.ledger, uuid, snapshot.inventory)
    probe = snapshot.gpu_health.get(uuid, GpuHealth()).probe
    for fault in probe_faults(probe) if probe is not None else ():
        ledger = ledgers.record(
            ledger, fault, snapshot.inventory, now, escalation(snapshot.settings)
        )
    return Step(decide(state, ledger=ledger), (Commanded(Command.CLEAR, uuid),), probe=True)


# ---- releasing the driver


def released(state: State, gpus: Collection[str], now: float, seconds: float) -> Step:
    """The driver is to be let go of for so long, and these GPUs may be reset meanwhile. Asked for
    again it lasts from now on, for the GPUs of both; what is held is looked at once more.
    """
    before = state.snapshot.release
    both = frozenset(gpus) | (before.gpus if before is not None else frozenset())
    release = Release(both, now + seconds)
    asked = ReleaseAsked(tuple(sorted(both)), seconds)
    return Step(decide(state, release=release), (asked,), rescan=True)


def let_go(state: State, left: tuple[str, ...]) -> Step:
    """The driver was closed, and this is what is held of it all the same."""
    release = state.snapshot.release
    if release is None or release.is_over:
        return Step(state)
    phase = Phase.LEAVING if left else Phase.RELEASED
    after = replace(release, phase=phase, left=left)
    news = () if after == release else (ReleaseDone(left),)
    return Step(decide(state, release=after), news)


def resumed(state: State, *, expired: bool = False) -> Step:
    """The release is over. Until the next scan its GPUs stay out of service, and what that scan
    does not show is gone: the GPUs may have been reset, and the kernel module loaded anew. Nothing
    is known of how they did meanwhile, so quiet periods begin with the next probe.
    """
    snapshot = state.snapshot
    if snapshot.release is None or snapshot.release.is_over:
        return Step(state)
    state = replace(state, changed=state.changed | {gpu.uuid for gpu in snapshot.inventory.gpus})
    health = {uuid: replace(each, good_since=None) for uuid, each in snapshot.gpu_health.items()}
    state = decide(
        state,
        release=replace(snapshot.release, phase=Phase.RETURNING, left=()),
        gpu_health=MappingProxyType(health),
    )
    return Step(state, (ReleaseOver(expired),), rescan=True, probe=True)


# ---- partitioning


def withdrawn(state: State, withdrawal: Withdrawal) -> Step:
    """Partitioning keeps these devices from pods, and no others any more."""
    return Step(decide(state, withdrawal=withdrawal))


def reconfiguring(state: State, gpu_uuids: Iterable[str]) -> State:
    """The instances of these GPUs are about to be changed: as if the driver had announced it."""
    return replace(state, changed=state.changed | frozenset(gpu_uuids))
