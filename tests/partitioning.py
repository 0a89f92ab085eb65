"""Simulated GPUs for tests of partitioning: their offers, their state, and plans carried out."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.partition.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Plan,
    SwitchMode,
)
from plugin.sim.hardware.cards import Card
from plugin.sim.hardware.engine import SimNode
from tests.simulated import truth


def offers(card: Card) -> tuple[ProfileOffer, ...]:
    """What a driver offers on a card. Compute profile ids are sizes here."""
    return tuple(
        ProfileOffer(
            each.name,
            each.id,
            each.slices,
            each.memory_mib,
            each.placements,
            each.max_instances,
            tuple((slices, slices) for slices in each.compute_slices),
        )
        for each in card.profiles
    )


def offers_of(node: SimNode) -> dict[str, tuple[ProfileOffer, ...]]:
    return {gpu.uuid: offers(gpu.card) for gpu in node.gpus}


def inventory(node: SimNode) -> Inventory:
    """What a driver reads that also says where compute instances lie."""
    starts = {slot.ci.uuid: slot.ci.placement.start for gpu in node.gpus for slot in gpu.devices()}
    return Inventory(gpus=tuple(_with_starts(gpu, starts) for gpu in truth(node)))


def _with_starts(gpu: Gpu, starts: dict[str, int]) -> Gpu:
    devices = (replace(each, ci_start=starts[each.uuid]) for each in gpu.mig_devices)
    return replace(gpu, mig_devices=tuple(devices))


def fill(node: SimNode, gpu: int, gi: int, places: Sequence[tuple[int, int]]) -> list[str]:
    """Create compute instances at these (start, slices) of a GPU instance; returns their UUIDs.

    The driver takes the first free place, so places before them are filled meanwhile.
    """
    made, fillers = [], []
    for start, slices in sorted(places):
        taken = {
            n
            for ci in node.gpu(gpu).instance(gi).compute
            for n in range(ci.placement.start, ci.placement.end)
        }
        fillers += [node.create_ci(gpu, gi, 1).id for _ in set(range(start)) - taken]
        created = node.create_ci(gpu, gi, slices)
        assert created.placement.start == start
        made.append(created.uuid)
    for ci in fillers:
        node.destroy_ci(gpu, gi, ci)
    return made


def carry_out(node: SimNode, gpu: int, plan: Plan) -> None:
    """Carry out every step on the simulated hardware, which refuses what real hardware does."""
    made: dict[object, int] = {}
    for step in plan.steps:
        match step:
            case SwitchMode():
                node.set_mig_mode(gpu, on=step.on)
                if step.needs_reset:
                    node.reset(gpu)
            case DestroyComputeInstance():
                assert any(
                    ci.id == step.ci and ci.uuid == step.uuid
                    for ci in node.gpu(gpu).instance(step.gi).compute
                )
                node.destroy_ci(gpu, step.gi, step.ci)
            case DestroyGpuInstance():
                node.destroy_gi(gpu, step.gi)
            case CreateGpuInstance():
                created = node.create_gi(gpu, step.profile, step.placement)
                assert created.profile.id == step.profile_id
                made[step.placement] = created.id
            case CreateComputeInstance():
                gi = made[step.placement] if step.gi is None else step.gi
                assert step.profile_id == step.slices
                node.create_ci(gpu, gi, step.slices)
