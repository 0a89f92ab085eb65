"""The GPU and MIG devices that a call is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from plugin.sim.hardware.gpu import GpuState, MigSlot
from plugin.sim.nvml.abi import (
    COMPUTE_INSTANCE,
    DEVICE,
    GPU_INSTANCE,
    CiRef,
    GiRef,
    GpuRef,
    MigRef,
    Session,
)

_Choose = Callable[[MigSlot, Any], bool]

#: Devices that a function is about beyond its handle: those that match its second argument.
_PARTS: Mapping[str, _Choose] = MappingProxyType(
    {
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda slot, index: bool(slot.index == index),
        "nvmlDeviceGetGpuInstanceById": lambda slot, gi: bool(slot.gi.id == gi),
        "nvmlGpmMigSampleGet": lambda slot, gi: bool(slot.gi.id == gi),
    }
)


def concerns(session: Session, function: str, arguments: Sequence[Any]) -> frozenset[str]:
    """UUIDs of the GPU and of the MIG devices that the call is about."""
    found: Iterable[str] = ()
    if function == "nvmlDeviceGetHandleByIndex_v2":
        found = [
            gpu.uuid for gpu in session.engine.gpus if [gpu.index] == _slot(session, arguments)
        ]
    elif function == "nvmlDeviceGetHandleByUUID":
        found = _named(session, (arguments[0] or b"").decode(errors="replace"))
    elif arguments and isinstance(arguments[0], DEVICE | GPU_INSTANCE | COMPUTE_INSTANCE):
        found = _handled(session, function, arguments)
    return frozenset(found)


def _slot(session: Session, arguments: Sequence[Any]) -> list[int]:
    return list(session.slots[arguments[0] : arguments[0] + 1])


def _named(session: Session, uuid: str) -> Sequence[str]:
    for gpu in session.engine.gpus:
        if gpu.uuid == uuid or gpu.device(uuid) is not None:
            return gpu.uuid, uuid
    return ()


def _handled(session: Session, function: str, arguments: Sequence[Any]) -> Sequence[str]:
    target = session.known(arguments[0])
    if isinstance(target, GpuRef):
        gpu, choose = _gpu(session, target.index), _PARTS.get(function)
        slots = () if gpu is None or choose is None else gpu.devices()
        mig = [slot.ci.uuid for slot in slots if choose is not None and choose(slot, arguments[1])]
    elif isinstance(target, MigRef):
        gpu, mig = _gpu(session, target.gpu), [target.uuid]
    elif isinstance(target, GiRef | CiRef):
        gpu = _gpu(session, target.gpu)
        slots = () if gpu is None else gpu.devices()
        mig = [slot.ci.uuid for slot in slots if slot.gi.id == target.gi]
    else:
        return ()
    return mig if gpu is None else (gpu.uuid, *mig)


def _gpu(session: Session, index: int) -> GpuState | None:
    return next((gpu for gpu in session.engine.gpus if gpu.index == index), None)
