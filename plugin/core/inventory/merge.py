"""A new scan on top of the last one: what cannot be read now is kept as it was, with the error,
never forgotten.

Kubelet shows a device that vanishes from a list as healthy in the pods that hold it; one that is
lost must therefore stay in the list, unhealthy.
"""

from __future__ import annotations

from dataclasses import replace

from plugin.core.inventory.model import Gpu, Inventory, MigDevice


def carry_over(old: Inventory, new: Inventory) -> Inventory:
    """`new`, completed from `old` where a GPU or a MIG device is there but does not answer."""
    known = {gpu.uuid: gpu for gpu in old.gpus}
    gpus = [_gpu(known.get(gpu.uuid), gpu) for gpu in new.gpus]
    seen = {gpu.uuid for gpu in new.gpus}
    gpus += [
        replace(gpu, error=new.unreadable[gpu.index], hung=gpu.index in new.hung)
        for gpu in old.gpus
        if gpu.uuid not in seen and gpu.index in new.unreadable
    ]
    return replace(new, gpus=tuple(sorted(gpus, key=lambda gpu: gpu.index)))


def _gpu(old: Gpu | None, new: Gpu) -> Gpu:
    if old is None:
        return new
    if new.error:
        # Whatever the scan got before it failed, the last whole picture is better.
        return replace(old, error=new.error, warnings=new.warnings, hung=new.hung)
    found = {device.uuid for device in new.mig_devices}
    before = {device.uuid: device for device in old.mig_devices}
    devices = [_mig(before.get(device.uuid), device) for device in new.mig_devices]
    devices += [
        replace(device, error=new.unreadable[device.index])
        for device in old.mig_devices
        if device.uuid not in found and device.index in new.unreadable
    ]
    return replace(
        new, mig_devices=tuple(sorted(devices, key=lambda device: (device.gi, device.ci)))
    )


def _mig(old: MigDevice | None, new: MigDevice) -> MigDevice:
    if old is None or not new.error or (old.gi, old.ci) != (new.gi, new.ci):
        return new
    return replace(old, error=new.error, index=new.index)
