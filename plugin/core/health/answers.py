"""What fresh answers of GPUs say: their health, the faults in it, and how undecided faults end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.health import ledger as ledgers
from plugin.core.health.events import Probe
from plugin.core.health.faults import Fault, Severity, decided, probe_faults
from plugin.core.health.ledger import Ledger
from plugin.core.health.recovery import GpuHealth, after_probe
from plugin.core.inventory.model import Inventory


class Answers(Struct, frozen=True):
    """The health of all GPUs, faults that are new, and faults that stay undecided. ``moved`` says
    that a GPU was lost or came back: what was on it is gone, or there again.
    """

    health: Mapping[str, GpuHealth]
    faults: tuple[Fault, ...]
    undecided: tuple[Fault, ...]
    moved: bool


def answers(
    health: Mapping[str, GpuHealth],
    probes: Iterable[Probe],
    undecided: tuple[Fault, ...],
    ledger: Ledger,
    inventory: Inventory,
    now: float,
) -> Answers:
    after = dict(health)
    faults: list[Fault] = []
    open_ = {
        fault: Severity.UNDECIDED
        for fault in undecided
        if inventory.gpu(fault.gpu_uuid) is not None
    }
    moved = False
    for probe in probes:
        before = health.get(probe.gpu_uuid, GpuHealth())
        gpu = after[probe.gpu_uuid] = after_probe(before, probe, now)
        held = {reason.code for reason in ledgers.of(ledger, probe.gpu_uuid)}
        faults += (f for f in probe_faults(gpu.probe or probe) if f.code not in held)
        moved |= (before.probe is not None and before.probe.lost) != probe.lost
        for fault in open_:
            if fault.gpu_uuid == probe.gpu_uuid:
                open_[fault] = decided(before.probe, probe)
    fatal = (fault for fault, severity in open_.items() if severity is Severity.FATAL)
    return Answers(
        MappingProxyType(after),
        (*faults, *_confirmed(fatal, inventory)),
        tuple(fault for fault, severity in open_.items() if severity is Severity.UNDECIDED),
        moved,
    )


def _confirmed(faults: Iterable[Fault], inventory: Inventory) -> Iterable[Fault]:
    """Against the devices that are still there. Their events are counted already."""
    for fault in faults:
        targets = tuple(uuid for uuid in fault.targets if inventory.device(uuid) is not None)
        if targets:
            yield replace(fault, severity=Severity.FATAL, targets=targets, xid=None)
