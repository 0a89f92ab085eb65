"""Small nodes made of values, for tests of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from plugin.core.advertise.advertisement import advertise
from plugin.core.advertise.listed import Listed, replica_id
from plugin.core.inventory.model import (
    Gpu,
    GpuInstance,
    Inventory,
    MigDevice,
    MigMode,
    Placement,
)
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import Snapshot

#: Memory slices of the profiles of a 40 GB A100.
SLICES = {
    "1g.5gb": 1,
    "1g.5gb+me": 1,
    "1g.10gb": 2,
    "2g.10gb": 2,
    "3g.20gb": 4,
    "4g.20gb": 4,
    "7g.40gb": 8,
}
CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")


def mig_device(gpu: int = 0, start: int = 0, profile: str = "1g.5gb", **changes: Any) -> MigDevice:
    """A MIG device whose GPU instance begins at memory slice `start`; its GI id is 7 + start."""
    gi, ci = 7 + start, changes.get("ci", 0)
    made = MigDevice(
        uuid=f"MIG-{gpu}-{gi}-{ci}",
        gpu_uuid=f"GPU-{gpu}",
        gpu_index=gpu,
        index=start,
        gi=gi,
        ci=ci,
        profile=profile,
        memory_mib=4864 * SLICES.get(profile, 1),
        placement=Placement(start, SLICES.get(profile, 1)),
        device_nodes=(
            f"/dev/nvidia{gpu}",
            *(f"/dev/nvidia-caps/nvidia-cap{100 * gpu + 9 * gi + n}" for n in (0, 1 + ci)),
        ),
        numa=gpu // 4,
    )
    return replace(made, **changes)


def gpu(index: int = 0, *devices: MigDevice, mig: bool | None = None, **changes: Any) -> Gpu:
    """A GPU that has MIG; unless told, the mode is on when there are MIG devices."""
    on = bool(devices) if mig is None else mig
    made = Gpu(
        uuid=f"GPU-{index}",
        index=index,
        minor=index,
        pci_bus_id=f"0000:{index:02x}:00.0",
        numa=index // 4,
        product="NVIDIA A100-SXM4-40GB",
        memory_mib=40960,
        mig=MigMode(on, on),
        mig_devices=devices,
        instances=tuple(
            {
                d.gi: GpuInstance(d.gi, d.profile, d.placement) for d in devices if d.placement
            }.values()
        ),
        memory_slices=8,
        device_nodes=(f"/dev/nvidia{index}",),
    )
    return replace(made, **changes)


def mig_gpu(index: int, *profiles: str) -> Gpu:
    """A GPU with these profiles side by side."""
    devices, start = [], 0
    for number, profile in enumerate(profiles):
        devices.append(mig_device(index, start, profile, index=number))
        start += SLICES[profile]
    return gpu(index, *devices, mig=True)


def node(*gpus: Gpu) -> Inventory:
    return Inventory(
        gpus=gpus, driver_version="550.90", nvml_version="12.550", control_nodes=CONTROL
    )


def snapshot(
    inventory: Inventory, settings: Settings | None = None, generation: int = 1
) -> Snapshot:
    """The node as `settings` (mixed, when not given) advertise it."""
    settings = settings or Settings(mig_strategy=MigStrategy.MIXED)
    return Snapshot(generation, settings, inventory, advertise(inventory, settings))


def listing(devices: Sequence[MigDevice | Gpu], replicas: int = 1) -> tuple[Listed, ...]:
    """One resource's list of these devices, each `replicas` times."""
    return tuple(
        Listed(replica_id(device.uuid, n) if replicas > 1 else device.uuid, device)
        for device in devices
        for n in range(replicas)
    )


def ids(listed: Sequence[Listed]) -> list[str]:
    return [item.id for item in listed]
