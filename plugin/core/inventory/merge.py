"""A new scan on top of the last one.

What a device is, once read, holds for the life of its UUID: a reading that fails later, or that
disagrees, is a reason and never another identity. What cannot be read now is kept as it was, with
the error. What is not found any more is kept too, until its absence is certain: kubelet shows a
device that vanishes from a list as healthy in the pods that hold it, and its place as free.

A MIG device is certainly gone when its GPU was read without any doubt, the driver denies its UUID,
and one of these is true: the driver announced a change of the GPU's configuration, another device
has its place, MIG mode is off, or a second scan says the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.inventory.model import Gpu, Inventory, MigDevice, MigMode, Placement, Unknown


class Merged(Struct, frozen=True):
    """The inventory to go by. ``gone`` are MIG devices that are certainly no more, ``unseen`` those
    that this scan has not shown for the first time: only another one makes it certain.
    """

    inventory: Inventory
    gone: frozenset[str] = frozenset()
    unseen: frozenset[str] = frozenset()


class Before(Struct, frozen=True):
    """What is known from before a scan.

    ``remembered`` maps UUIDs of MIG devices that something is kept for to those of their GPUs.
    ``unseen`` are the devices that the last scan has not shown, ``announced`` the GPUs whose
    configuration changed before this one began.
    """

    inventory: Inventory
    remembered: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unseen: Collection[str] = frozenset()
    announced: Collection[str] = frozenset()

    def sought(self) -> tuple[str, ...]:
        """UUIDs that a scan should look for."""
        known = (device.uuid for device in self.inventory.devices())
        return tuple(dict.fromkeys((*known, *self.remembered)))


def merge(before: Before, new: Inventory) -> Merged:
    """`new`, completed from what was known before."""
    old = before.inventory
    known = {gpu.uuid: gpu for gpu in old.gpus}
    gpus = [_gpu(known.get(gpu.uuid), gpu) for gpu in new.gpus]
    seen = {gpu.uuid for gpu in new.gpus}
    gpus += [
        replace(
            gpu,
            error=new.unreadable.get(gpu.index) or new.doubts[gpu.uuid],
            hung=gpu.index in new.hung,
        )
        for gpu in old.gpus
        if gpu.uuid not in seen and (gpu.index in new.unreadable or gpu.uuid in new.doubts)
    ]
    parents = {**before.remembered}
    parents.update((device.uuid, gpu.uuid) for gpu in old.gpus for device in gpu.mig_devices)
    merged = {gpu.uuid: gpu for gpu in gpus}
    gone: set[str] = set()
    unseen: set[str] = set()
    for uuid, parent in parents.items():
        gpu = merged.get(parent)
        if gpu is None or gpu.error or any(device.uuid == uuid for device in gpu.mig_devices):
            continue
        device = old.device(uuid)
        device = device if isinstance(device, MigDevice) else None
        why = _doubt(uuid, device, gpu, new)
        if why is None and (uuid in before.unseen or _is_certain(device, gpu, before.announced)):
            gone.add(uuid)
            continue
        if why is None:
            unseen.add(uuid)
            path = device.path if device is not None else uuid
            why = (
                f"MIG device {path}: the driver shows it no more; the next scan makes that certain"
            )
        if device is not None:
            unsure = replace(device, error=why, unseen=uuid in unseen)
            merged[parent] = _with(gpu, unsure)
    ordered = sorted((merged[gpu.uuid] for gpu in gpus), key=lambda gpu: gpu.index)
    whole = replace(new, gpus=tuple(ordered), machine=new.machine or old.machine)
    return Merged(whole, frozenset(gone), frozenset(unseen))


# ---- GPUs


def _gpu(old: Gpu | None, new: Gpu) -> Gpu:
    if old is None:
        return new
    if new.error:
        # Whatever the scan got before it failed, the last whole picture is better.
        return replace(old, error=new.error, warnings=new.warnings, hung=new.hung)
    mode, unknown, warnings = _mode(old, new)
    known = {device.uuid: device for device in old.mig_devices}
    devices = []
    for device in new.mig_devices:
        kept, odd = _mig(known.get(device.uuid), device)
        devices.append(kept)
        warnings += odd
    return replace(
        new,
        mig=mode,
        mig_unknown=unknown,
        mig_devices=tuple(devices),
        product=new.product or old.product,
        pci_bus_id=new.pci_bus_id or old.pci_bus_id,
        pci_device_id=new.pci_device_id or old.pci_device_id,
        pci_class=old.pci_class if new.pci_class is None else new.pci_class,
        numa=old.numa if new.numa is None else new.numa,
        memory_mib=new.memory_mib or old.memory_mib,
        compute_capability=new.compute_capability or old.compute_capability,
        memory_slices=new.memory_slices or old.memory_slices,
        warnings=(*new.warnings, *warnings),
    )


def _mode(old: Gpu, new: Gpu) -> tuple[MigMode | None, Unknown | None, list[str]]:
    """MIG mode: one that was read once holds until it is read again, and so does having none."""
    if new.mig is not None or old.mig is None:
        if new.mig is None and new.mig_unknown is not None and old.mig_certain:
            return None, None, [f"GPU {new.index}: {new.mig_unknown}"]
        return new.mig, new.mig_unknown, []
    denied = Unknown("the driver says that the card has no MIG, which it had")
    return old.mig, new.mig_unknown or denied, []


# ---- MIG devices


def _mig(old: MigDevice | None, new: MigDevice) -> tuple[MigDevice, list[str]]:
    """The device as it is known, with what is new of it; and what disagrees."""
    if old is None:
        return new, []
    odd = [
        f"MIG device {old.path} ({old.uuid}): its {what} was {was}, and the driver now says {now}; "
        "it stays what it was"
        for what, was, now in (
            ("GPU instance", old.gi, new.gi),
            ("compute instance", old.ci, new.ci),
            ("profile", old.profile, new.profile),
            ("placement", _at(old.placement), _at(new.placement)),
        )
        if was not in {"", now} and now != ""
    ]
    if new.error and old.profile:
        return replace(old, error=new.error, index=new.index, unseen=False), odd
    if (old.gi, old.ci) != (new.gi, new.ci):
        return replace(old, error=odd[0], index=new.index, unseen=False), odd
    return replace(
        new,
        profile=old.profile or new.profile,
        placement=old.placement or new.placement,
        numa=old.numa if new.numa is None else new.numa,
    ), odd


def _at(placement: Placement | None) -> str:
    return f"{placement.start}:{placement.size}" if placement is not None else ""


def _doubt(uuid: str, device: MigDevice | None, gpu: Gpu, new: Inventory) -> str | None:
    """Why a device that a scan has not shown may be there."""
    if device is not None and gpu.instances is not None:
        there = {each.id for each in gpu.instances}
        if device.gi not in there:
            return None  # the driver's own list of GPU instances denies it
    if device is not None and any((d.gi, d.ci) == (device.gi, device.ci) for d in gpu.mig_devices):
        return None
    if uuid in new.doubts:
        return new.doubts[uuid]
    if device is not None and device.index in gpu.unreadable:
        return gpu.unreadable[device.index]
    if device is None and gpu.unreadable:
        return next(iter(gpu.unreadable.values()))
    return f"GPU {gpu.index}: {gpu.uncounted}" if gpu.uncounted is not None else None


def _is_certain(device: MigDevice | None, gpu: Gpu, announced: Collection[str]) -> bool:
    """Whether one scan without a device is enough."""
    if gpu.uuid in announced:
        return True
    if gpu.mig_unknown is None and gpu.mig is not None and not gpu.mig.current:
        return True
    return device is not None and any(
        (other.gi, other.ci) == (device.gi, device.ci) for other in gpu.mig_devices
    )


def _with(gpu: Gpu, device: MigDevice) -> Gpu:
    devices = sorted((*gpu.mig_devices, device), key=lambda each: each.order)
    return replace(gpu, mig_devices=tuple(devices))
