"""The steps of the state that an operator's commands make, and those of partitioning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.health import ledger as ledgers
from plugin.core.health.faults import probe_faults
from plugin.core.health.recovery import GpuHealth
from plugin.core.news import Command, Commanded
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


def withdrawn(state: State, withdrawal: Withdrawal) -> Step:
    """Partitioning keeps these devices from pods, and no others any more."""
    return Step(decide(state, withdrawal=withdrawal))


def reconfiguring(state: State, gpu_uuids: Iterable[str]) -> State:
    """The instances of these GPUs are about to be changed: as if the driver had announced it."""
    return replace(state, changed=state.changed | frozenset(gpu_uuids))
