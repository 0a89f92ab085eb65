"""What keeps a GPU from its configuration, as values, and whether a step took effect."""

from __future__ import annotations

import enum

from msgspec import Struct

from plugin.core.inventory.model import Gpu
from plugin.core.partition.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Step,
    SwitchMode,
)
from plugin.errors import (
    DeviceInUse,
    DriverError,
    DriverUnavailable,
    GpuHangs,
    GpuLost,
    NoPermission,
    NotSupported,
    ProfilesUnknown,
    ResetNeeded,
)


class Code(enum.StrEnum):
    """What keeps a GPU, or the node, from its configuration."""

    IN_USE = "in-use"
    HOLDERS_UNKNOWN = "holders-unknown"
    KUBELET_NOT_TOLD = "kubelet-not-told"
    UNKNOWN_CONFIGURATION = "unknown-configuration"
    UNKNOWN_PROFILE = "unknown-profile"
    IMPOSSIBLE = "impossible"
    NO_MIG = "no-mig"
    UNREADABLE = "unreadable"
    UNSETTLED = "unsettled"
    HELD = "held"
    RESET_NEEDED = "reset-needed"
    NO_PERMISSION = "no-permission"
    NOT_SUPPORTED = "not-supported"
    GPU_LOST = "gpu-lost"
    NOT_ANSWERING = "not-answering"
    DRIVER_UNAVAILABLE = "driver-unavailable"
    STEP_FAILED = "step-failed"
    NOT_SAVED = "not-saved"
    BUSY = "busy"


class Trouble(Struct, frozen=True):
    """``code`` is for machines, ``text`` for people."""

    code: Code
    text: str


#: In order: the first kind that fits.
_KINDS: tuple[tuple[type[DriverError], Code], ...] = (
    (DeviceInUse, Code.IN_USE),
    (ResetNeeded, Code.RESET_NEEDED),
    (GpuLost, Code.GPU_LOST),
    (GpuHangs, Code.NOT_ANSWERING),
    (NoPermission, Code.NO_PERMISSION),
    (NotSupported, Code.NOT_SUPPORTED),
    (ProfilesUnknown, Code.UNREADABLE),
    (DriverUnavailable, Code.DRIVER_UNAVAILABLE),
)


def trouble(error: DriverError) -> Trouble:
    """What an error of a driver's verb means for the GPU."""
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return Trouble(code, str(error))
    return Trouble(Code.STEP_FAILED, str(error))


def took_effect(step: Step, before: Gpu, after: Gpu) -> bool:
    """Whether a look after a step shows what the step was to do. False where the look does not
    tell.
    """
    if after.error or after.hung:
        return False
    match step:
        case SwitchMode():
            return after.mig is not None and after.mig.pending == step.on
        case DestroyComputeInstance():
            return not after.unreadable and all(d.uuid != step.uuid for d in after.mig_devices)
        case DestroyGpuInstance():
            return after.instances is not None and all(i.id != step.gi for i in after.instances)
        case CreateGpuInstance():
            old = {each.id for each in before.instances or ()}
            return any(
                (each.profile, each.placement) == (step.profile, step.placement)
                and each.id not in old
                for each in after.instances or ()
            )
        case CreateComputeInstance():
            known = {device.uuid for device in before.mig_devices}
            return any(
                (device.profile, device.placement) == (step.profile, step.placement)
                and device.uuid not in known
                for device in after.mig_devices
            )


def instance_at(gpu: Gpu, step: CreateComputeInstance) -> int | None:
    """The GPU instance in which a compute instance is to be made."""
    if step.gi is not None:
        return step.gi
    found = (each.id for each in gpu.instances or () if each.placement == step.placement)
    return next(found, None)
