"""Judging events: which devices a fault concerns and whether it takes them out of service."""

from __future__ import annotations

import enum

from msgspec import Struct

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.xids import CATALOGUE, Action
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.reasons import Code, xid_code
from plugin.core.settings import Settings

#: Names of NVML's recovery actions (``nvmlDeviceGpuRecoveryAction_t``).
RECOVERY_ACTIONS = {
    0: "none",
    1: "reset the GPU",
    2: "reboot the node",
    3: "drain peer-to-peer traffic",
    4: "drain and reset the GPU",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}


class Severity(enum.Enum):
    """What a fault does to the devices it concerns."""

    COUNTED = "counted"
    APPLICATION = (
        "restart the application"  # counted; many of them in a short time can become fatal
    )
    UNDECIDED = "the recovery action decides"  # counted until the next probe; see :func:`decided`
    FATAL = "out of service"


class Fault(Struct, frozen=True):
    """One event, judged. ``targets`` are UUIDs of MIG devices, or the GPU's own for all that is on
    it.
    """

    code: str
    text: str
    severity: Severity
    gpu_uuid: str
    targets: tuple[str, ...]
    xid: int | None = None


#: Events that are no XID are judged as the XID that says the same.
_AS_XID = {
    EventKind.DOUBLE_BIT_ECC: (48, Code.DOUBLE_BIT_ECC, "double-bit ECC error"),
    EventKind.DRAM_RETIREMENT: (63, Code.DRAM_RETIREMENT, "memory retired"),
    EventKind.DRAM_RETIREMENT_FAILURE: (
        64,
        Code.DRAM_RETIREMENT_FAILURE,
        "retiring memory failed",
    ),
    EventKind.NON_FATAL_POISON: (94, Code.NON_FATAL_POISON, "contained memory error"),
    EventKind.FATAL_POISON: (95, Code.FATAL_POISON, "uncontained memory error"),
}

#: Every other action takes a device out.
_SEVERITIES = {
    Action.IGNORE: Severity.COUNTED,
    Action.RECOVERY_ACTION_CHANGED: Severity.COUNTED,
    Action.RESTART_APP: Severity.APPLICATION,
}

#: XIDs whose workflow ends in what the driver recommends, from nothing to a reset: the errors of
#: NVLink 5, most of which need nothing.
_UNDECIDED_WORKFLOWS = frozenset(range(144, 151))

#: XIDs whose action is a workflow that ends, when they come alone, with the application.
_HARMLESS_WORKFLOWS = frozenset({45})


def judge(event: DriverEvent, inventory: Inventory, settings: Settings) -> Fault | None:
    """The fault that `event` tells of; ``None`` where it is no fault, or where checks are switched
    off.

    A MIG configuration or recovery action event is no fault by itself: it is a reason to look.
    """
    gpu = inventory.gpu(event.gpu_uuid)
    if gpu is None or not watching(settings):
        return None
    targets = attribute(event, gpu)
    match event.kind:
        case EventKind.XID:
            return _xid_fault(event.data, gpu, targets, settings)
        case EventKind.SINGLE_BIT_ECC:
            return Fault(
                "single-bit-ecc", "single-bit ECC error", Severity.COUNTED, gpu.uuid, targets
            )
        case EventKind.GPU_UNAVAILABLE:
            return Fault(
                Code.GPU_UNAVAILABLE,
                "the driver says the GPU is unavailable",
                Severity.FATAL,
                gpu.uuid,
                (gpu.uuid,),
            )
        case EventKind.MIG_CONFIG | EventKind.RECOVERY_ACTION:
            return None
        case kind:
            xid, code, text = _AS_XID[kind]
            return Fault(code, text, severity(xid, settings), gpu.uuid, targets)


def watching(settings: Settings) -> bool:
    """Whether anything is to be watched at all."""
    return bool(settings.enable_healthchecks) or not settings.disable_healthchecks.all


def attribute(event: DriverEvent, gpu: Gpu) -> tuple[str, ...]:
    """UUIDs that an event concerns: one MIG device, those of a GPU instance, or the whole GPU.

    Empty when it names an instance that does not exist.
    """
    if event.gi is None:
        return (gpu.uuid,)
    return tuple(d.uuid for d in gpu.mig_devices if d.gi == event.gi and event.ci in {None, d.ci})


def severity(xid: int, settings: Settings) -> Severity:
    """The operator's word first, then the catalogue's; XIDs that it does not know take devices
    out.
    """
    if settings.enable_healthchecks.covers(xid):
        return Severity.FATAL
    if settings.disable_healthchecks.covers(xid):
        return Severity.COUNTED
    entry = CATALOGUE.get(xid)
    if entry is None:
        return Severity.FATAL
    if xid in _HARMLESS_WORKFLOWS:
        return Severity.APPLICATION
    if xid in _UNDECIDED_WORKFLOWS:
        return Severity.UNDECIDED
    return _SEVERITIES.get(entry.action, Severity.FATAL)


def decided(before: Probe | None, probe: Probe) -> Severity:
    """What an undecided fault is after `probe` of its GPU; `before` is the probe before that.

    The driver decides if it has a recovery action, which is a fault of its own; the catalogue
    decides if it has none. A GPU that cannot be asked now leaves it open.
    """
    if probe.recovery_action is not None:
        return Severity.COUNTED
    has_answered = before is not None and before.recovery_action is not None
    return Severity.UNDECIDED if probe.error or probe.lost or has_answered else Severity.FATAL


def recovery_fault(gpu_uuid: str, action: int) -> Fault | None:
    """The fault in a recovery action: each but ``none`` concerns the whole GPU, unknown ones as
    well.
    """
    if action == 0:
        return None
    known = RECOVERY_ACTIONS.get(action)
    text = (
        f"the driver asks to {known}"
        if known
        else f"the driver's recovery action is unknown ({action})"
    )
    return Fault(Code.RECOVERY_ACTION, text, Severity.FATAL, gpu_uuid, (gpu_uuid,))


def probe_faults(probe: Probe) -> tuple[Fault, ...]:
    """What a probe says is wrong; being unable to ask is not among it."""
    uuid = probe.gpu_uuid
    faults = []
    if probe.lost:
        text = f"the GPU does not answer: {probe.error}"
        faults.append(Fault(Code.GPU_LOST, text, Severity.FATAL, uuid, (uuid,)))
    if probe.recovery_action is not None and (fault := recovery_fault(uuid, probe.recovery_action)):
        faults.append(fault)
    if probe.remap_failure:
        text = "remapping a memory row failed"
        faults.append(Fault(Code.REMAP_FAILURE, text, Severity.FATAL, uuid, (uuid,)))
    return tuple(faults)


def _xid_fault(xid: int, gpu: Gpu, targets: tuple[str, ...], settings: Settings) -> Fault:
    entry = CATALOGUE.get(xid)
    meaning = f"{entry.meaning}; {entry.action}" if entry else "not in NVIDIA's catalogue"
    return Fault(
        xid_code(xid), f"XID {xid}: {meaning}", severity(xid, settings), gpu.uuid, targets, xid
    )
