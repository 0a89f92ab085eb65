"""Drivers over simulated nodes, and what the hardware there really is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from plugin.core.inventory.model import Gpu, GpuInstance, Inventory, MigDevice, MigMode
from plugin.driver.nvml import NvmlDriver
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.files import capability_minor
from plugin.sim.hardware.gpu import GpuState, MigSlot
from plugin.sim.simulation import simulate


@contextmanager
def opened(node: SimNode, without: Collection[str] = ()) -> Iterator[NvmlDriver]:
    """An open driver over a node, whose library lacks the functions in `without`."""
    driver = simulate(node, without).driver
    driver.open()
    try:
        yield driver
    finally:
        driver.close()


def scan(node: SimNode) -> Inventory:
    """One scan by a driver of its own."""
    with opened(node) as driver:
        return driver.scan()


def truth(node: SimNode) -> tuple[Gpu, ...]:
    """What a driver should read of a node on which nothing is broken, from the hardware itself."""
    return tuple(_gpu(index, state) for index, state in enumerate(node.gpus))


def _gpu(index: int, state: GpuState) -> Gpu:
    card = state.card
    found = sorted(state.devices(), key=lambda slot: (slot.gi.id, slot.ci.id))
    return Gpu(
        uuid=state.uuid,
        index=index,
        minor=state.minor,
        pci_bus_id=state.pci_bus_id,
        pci_device_id=card.pci_device_id,
        pci_class=0x030200,
        numa=state.numa,
        product=card.product,
        memory_mib=card.memory_bytes >> 20,
        compute_capability=card.compute_capability,
        mig=MigMode(state.mig, state.mig_pending) if card.profiles else None,
        mig_devices=tuple(_mig(index, state, slot) for slot in found),
        instances=tuple(GpuInstance(i.id, i.profile.name, i.placement) for i in state.instances)
        if card.profiles
        else None,
        memory_slices=card.memory_slices,
        device_nodes=(f"/dev/nvidia{state.minor}",),
    )


def _mig(index: int, state: GpuState, slot: MigSlot) -> MigDevice:
    gi, ci, profile = slot.gi, slot.ci, slot.gi.profile
    caps = capability_minor(state.minor, gi.id), capability_minor(state.minor, gi.id, ci.id)
    return MigDevice(
        uuid=ci.uuid,
        gpu_uuid=state.uuid,
        gpu_index=index,
        index=slot.index,
        gi=gi.id,
        ci=ci.id,
        profile=profile.device_name(ci.slices),
        memory_mib=profile.memory_mib,
        multiprocessors=profile.multiprocessors_of(ci.slices),
        gi_slices=profile.slices,
        ci_slices=ci.slices,
        engines=profile.engines,
        placement=gi.placement,
        device_nodes=(
            f"/dev/nvidia{state.minor}",
            *(f"/dev/nvidia-caps/nvidia-cap{n}" for n in caps),
        ),
        numa=state.numa,
    )
