"""The state of a simulated GPU as a frozen value, and the rules for creating instances."""

from __future__ import annotations

import enum
import functools
import uuid
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.inventory.model import Placement
from plugin.sim.hardware.cards import Card, CardProfile
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.placement import PlannedInstance, compute_placements

_NAMESPACE = uuid.UUID("6f1d9c52-8a34-4d1e-9b7a-51c1f7d0a4ce")
_BUSES = (0x10, 0x20, 0x90, 0xA0)
_GPUS_PER_DOMAIN = 2 * len(_BUSES)


class ComputeInstance(Struct, frozen=True):
    """``placement`` counts compute slices within the GPU instance."""

    id: int
    placement: Placement
    uuid: str

    @property
    def slices(self) -> int:
        return self.placement.size


class GpuInstance(Struct, frozen=True):
    """``placement`` counts memory slices of the GPU; ``compute`` is ordered by id."""

    id: int
    profile: CardProfile
    placement: Placement
    compute: tuple[ComputeInstance, ...] = ()


class Work(enum.Enum):
    """What a process does with a device. One that only watches has no context: the driver lists it
    nowhere, and it blocks what needs an idle device all the same.
    """

    COMPUTE = "compute"
    GRAPHICS = "graphics"
    MPS = "mps"
    WATCH = "watch"


class Process(Struct, frozen=True):
    """``memory`` is in bytes."""

    pid: int
    memory: int = 0
    work: Work = Work.COMPUTE


class Wear(Struct, frozen=True):
    """Memory health: ECC errors since boot, remapped rows, pending retirements."""

    single_bit_ecc: int = 0
    double_bit_ecc: int = 0
    remapped_correctable: int = 0
    remapped_uncorrectable: int = 0
    remap_pending: bool = False
    remap_failure: bool = False
    retirement_pending: bool = False


class MigSlot(Struct, frozen=True):
    """One MIG device with NVML's index."""

    index: int
    gi: GpuInstance
    ci: ComputeInstance


class GpuState(Struct, frozen=True, dict=True):  # for the cached property
    """One GPU. ``instances`` are ordered by id; ``numa`` is ``None`` if unknown.

    ``index`` is the slot and, unless another was recorded, the minor number; NVML's index is the
    position among present GPUs.
    """

    index: int
    card: Card
    uuid: str
    pci_bus_id: str
    numa: int | None
    mig: bool = False
    mig_pending: bool = False
    instances: tuple[GpuInstance, ...] = ()
    present: bool = True
    lost: bool = False
    recovery_action: int = 0
    wear: Wear = Wear()
    recorded_minor: int | None = None

    @property
    def minor(self) -> int:
        return self.index if self.recorded_minor is None else self.recorded_minor

    def devices(self) -> Iterator[MigSlot]:
        """MIG devices in NVML's order."""
        return iter(self._slots.values())

    @property
    def holdable(self) -> tuple[str, ...]:
        """UUIDs that a process may hold: the GPU's and its MIG devices'."""
        return (self.uuid, *self._slots)

    def device(self, uuid: str) -> MigSlot | None:
        return self._slots.get(uuid)

    @functools.cached_property
    def _slots(self) -> dict[str, MigSlot]:
        pairs = ((gi, ci) for gi in self.instances for ci in gi.compute)
        return {ci.uuid: MigSlot(index, gi, ci) for index, (gi, ci) in enumerate(pairs)}

    def instance(self, gi: int) -> GpuInstance:
        for instance in self.instances:
            if instance.id == gi:
                return instance
        raise NodeError(Code.NOT_FOUND, f"GPU {self.index} has no GPU instance {gi}")

    def with_instance(self, instance: GpuInstance) -> GpuState:
        """With an instance added or replaced."""
        others = (other for other in self.instances if other.id != instance.id)
        return replace(self, instances=tuple(sorted((*others, instance), key=lambda i: i.id)))

    def without_instance(self, gi: int) -> GpuState:
        return replace(self, instances=tuple(i for i in self.instances if i.id != gi))

    def matches(self, planned: Sequence[PlannedInstance] | None) -> bool:
        """Whether MIG mode and instances are as planned; ``None`` is MIG off."""
        if planned is None or not self.mig or not self.mig_pending:
            return planned is None and not self.mig and not self.mig_pending
        placed = [
            (i.profile.name, i.placement, tuple(c.slices for c in i.compute))
            for i in self.instances
        ]
        return sorted(placed) == sorted((p.profile.name, p.placement, p.compute) for p in planned)

    def free_placements(self, profile: CardProfile) -> tuple[Placement, ...]:
        """Possible placements of a new instance. The same with MIG off, as on real drivers."""
        same = sum(instance.profile.name == profile.name for instance in self.instances)
        media = profile.media and any(instance.profile.media for instance in self.instances)
        if same >= profile.max_instances or media:
            return ()
        taken = [instance.placement for instance in self.instances]
        return tuple(
            at for at in profile.placements if not any(at.overlaps(other) for other in taken)
        )

    def remaining(self, profile: CardProfile) -> int:
        """The number of further instances of this profile."""
        same = sum(instance.profile.name == profile.name for instance in self.instances)
        return min(len(self.free_placements(profile)), profile.max_instances - same)


def new_gpu(node: str, index: int, card: Card, numa: int | None) -> GpuState:
    """GPU ``index`` of a node: the UUID depends on the node's name, the bus id is as on a p4d."""
    domain, position = divmod(index, _GPUS_PER_DOMAIN)
    return GpuState(
        index=index,
        card=card,
        uuid=f"GPU-{uuid.uuid5(_NAMESPACE, f'{node}/{index}')}",
        pci_bus_id=f"{domain:04x}:{_BUSES[position // 2]:02x}:{0x1C + position % 2:02x}.0",
        numa=numa,
    )


def mig_uuid(gpu_uuid: str, gi: int, ci: int, count: int) -> str:
    """``count`` rises with every instance created, so every instance has a new UUID."""
    return f"MIG-{uuid.uuid5(_NAMESPACE, f'{gpu_uuid}/{gi}/{ci}/{count}')}"


def instance_id(card: Card, at: Placement) -> int:
    """GPU instance id by placement, numbered like a binary tree as on real drivers.

    On eight memory slices: 0 for the whole card, 1-2 for halves, 3-6 for quarters, 7-14 for single
    slices.
    """
    return card.memory_slices // at.size - 1 + at.start // at.size


def add_gi(gpu: GpuState, profile: str, wanted: Placement | None) -> tuple[GpuState, GpuInstance]:
    """Add an instance at the wanted or the first free placement."""
    known = gpu.card.profile(profile)
    free = gpu.free_placements(known)
    operation = f"creating {known.name} on GPU {gpu.index}"
    if wanted is not None and wanted not in known.placements:
        choices = ", ".join(f"{at.start}:{at.size}" for at in known.placements)
        raise NodeError(
            Code.INVALID_ARGUMENT,
            f"{operation} at {wanted.start}:{wanted.size}, possible are {choices}",
        )
    if not free or (wanted is not None and wanted not in free):
        taken = ", ".join(
            f"{i.profile.name} at {i.placement.start}:{i.placement.size}" for i in gpu.instances
        )
        raise NodeError(Code.INSUFFICIENT_RESOURCES, f"{operation} beside {taken}")
    at = wanted or free[0]
    made = GpuInstance(instance_id(gpu.card, at), known, at)
    return gpu.with_instance(made), made


def add_ci(
    gpu: GpuState, gi: int, slices: int | None, count: int, wanted: Placement | None = None
) -> tuple[GpuState, ComputeInstance]:
    """Add a compute instance, by default of the GPU instance's size, at the wanted or the first
    free placement; ``count`` as in :func:`mig_uuid`.
    """
    instance = gpu.instance(gi)
    size = instance.profile.slices if slices is None else slices
    if size not in instance.profile.compute_slices:
        raise NodeError(
            Code.INVALID_ARGUMENT, f"creating {size}c in {instance.profile.name} on GPU {gpu.index}"
        )
    free = free_compute(instance, size)
    if wanted is not None and wanted not in compute_placements(instance.profile, size):
        raise NodeError(
            Code.INVALID_ARGUMENT,
            f"creating {size}c in GPU instance {gi} of GPU {gpu.index} at {wanted.start}",
        )
    if not free or (wanted is not None and wanted not in free):
        raise NodeError(
            Code.INSUFFICIENT_RESOURCES,
            f"creating {size}c in GPU instance {gi} of GPU {gpu.index}, which has no room left",
        )
    used = {ci.id for ci in instance.compute}
    number = next(n for n in range(len(used) + 1) if n not in used)
    made = ComputeInstance(number, wanted or free[0], mig_uuid(gpu.uuid, gi, number, count))
    compute = tuple(sorted((*instance.compute, made), key=lambda ci: ci.id))
    return gpu.with_instance(replace(instance, compute=compute)), made


def free_compute(instance: GpuInstance, slices: int) -> tuple[Placement, ...]:
    """Possible placements of a new compute instance within a GPU instance."""
    taken: Sequence[Placement] = [ci.placement for ci in instance.compute]
    return tuple(
        at
        for at in compute_placements(instance.profile, slices)
        if not any(at.overlaps(other) for other in taken)
    )
