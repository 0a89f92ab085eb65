"""What a node is made of: GPUs, their MIG devices and an inventory of both, all frozen.

Everything is ordered by (GPU index, GPU instance id, compute instance id). ``None`` means that the
driver did not say; it is never a fault.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct, field

_NONE: Final[Mapping[int, str]] = MappingProxyType({})


class Placement(Struct, frozen=True, order=True):
    """Memory slices that a GPU instance occupies: ``size`` slices from ``start`` on (7-slice cards
    have 0..7).
    """

    start: int
    size: int

    @property
    def end(self) -> int:
        """First slice behind the instance."""
        return self.start + self.size

    def overlaps(self, other: Placement) -> bool:
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.size}"


class Engines(Struct, frozen=True):
    """Engines an instance has, as ``nvmlDeviceGetAttributes_v2`` counts them."""

    copy: int = 0
    decoder: int = 0
    encoder: int = 0
    jpeg: int = 0
    ofa: int = 0


class Unknown(Struct, frozen=True):
    """A reading that failed: what was asked and how that ended, NVML's code where the driver gave
    one, and what would let it succeed.
    """

    what: str
    code: int | None = None
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


class GpuInstance(Struct, frozen=True):
    """A GPU instance, with or without compute instances. ``profile`` is empty where the driver
    does not name it.
    """

    id: int
    profile: str
    placement: Placement


class MigMode(Struct, frozen=True):
    """MIG mode now and after the next GPU reset; they differ while a switch is pending."""

    current: bool
    pending: bool


class MigDevice(Struct, frozen=True):
    """One compute instance in one GPU instance: what a container is given.

    ``index`` is NVML's MIG index on the GPU. ``profile`` is the field's name (``1g.5gb``,
    ``1c.3g.20gb``, ``1g.10gb+me``), empty when it could not be read. ``memory_mib`` is in MiB.
    ``ci_start`` is its first compute slice within the GPU instance, ``None`` where the driver does
    not say. ``device_nodes`` are those a container needs, as absolute paths below the device root
    (``/dev/nvidia0``, ``/dev/nvidia-caps/nvidia-cap12``); ``missing_device_nodes`` names files
    that should be there and are not. ``error`` is what the driver said when the device could not be
    read. ``unseen``: the last scan has not shown it, and the next one makes certain whether it is
    gone.
    """

    uuid: str
    gpu_uuid: str
    gpu_index: int
    index: int
    gi: int
    ci: int
    profile: str
    memory_mib: int = 0
    multiprocessors: int = 0
    gi_slices: int = 0
    ci_slices: int = 0
    ci_start: int | None = None
    engines: Engines = Engines()
    placement: Placement | None = None
    device_nodes: tuple[str, ...] = ()
    missing_device_nodes: tuple[str, ...] = ()
    error: str | None = None
    numa: int | None = None
    unseen: bool = False

    @property
    def parts(self) -> tuple[MigDevice, ...]:
        """Nothing is on a MIG device."""
        return ()

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among all devices."""
        return self.gpu_index, self.gi, self.ci

    @property
    def path(self) -> str:
        """``GPU:MIG`` as ``nvidia-smi`` and the index id strategy write it."""
        return f"{self.gpu_index}:{self.index}"


class Gpu(Struct, frozen=True):
    """One physical GPU.

    ``minor`` is the number in ``/dev/nvidia<minor>``. ``pci_bus_id`` is as sysfs writes it
    (``0000:00:06.0``), and ``pci_class`` is the class there, base class first (``0x030200``: a 3D
    controller). ``mig`` is the last mode that was read. With ``mig_unknown`` the newest
    reading of it failed; without either the card certainly has no MIG. ``instances`` are all its
    GPU instances in order, ``None`` where they may not be read. ``warnings`` are things that could
    not be read below it. ``unreadable`` maps MIG indices at which a device exists that could not be
    identified to what the driver said, and ``uncounted`` says why there may be devices at others.
    ``hung`` says that a call about it has not returned: neither it nor anything on it can be used.
    """

    uuid: str
    index: int
    minor: int | None = None
    pci_bus_id: str = ""
    pci_device_id: int = 0
    pci_class: int | None = None
    numa: int | None = None
    product: str = ""
    memory_mib: int = 0
    compute_capability: tuple[int, int] | None = None
    mig: MigMode | None = None
    mig_unknown: Unknown | None = None
    mig_devices: tuple[MigDevice, ...] = ()
    instances: tuple[GpuInstance, ...] | None = None
    memory_slices: int = 0
    device_nodes: tuple[str, ...] = ()
    missing_device_nodes: tuple[str, ...] = ()
    error: str | None = None
    warnings: tuple[str, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=lambda: _NONE)
    hung: bool = False
    uncounted: Unknown | None = None

    @property
    def gpu_uuid(self) -> str:
        """Its own UUID, as a MIG device has that of its GPU."""
        return self.uuid

    @property
    def gpu_index(self) -> int:
        return self.index

    @property
    def parts(self) -> tuple[MigDevice, ...]:
        """The devices that are on it."""
        return self.mig_devices

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among all devices: before those that are on it."""
        return self.index, -1, -1

    @property
    def path(self) -> str:
        return str(self.index)

    @property
    def mig_enabled(self) -> bool:
        return self.mig is not None and self.mig.current

    @property
    def mig_certain(self) -> bool:
        """Whether its MIG mode, or that it has none, was ever read."""
        return self.mig is not None or self.mig_unknown is None

    def empty_instances(self) -> tuple[GpuInstance, ...]:
        """GPU instances without a compute instance, as far as known: they hold slices that no
        container can use.
        """
        used = {device.gi for device in self.mig_devices}
        return tuple(each for each in self.instances or () if each.id not in used)

    def free_slices(self) -> tuple[int, ...] | None:
        """Memory slices in no GPU instance, in order. ``None`` without MIG, and where the driver
        does not say which instances there are and where they lie.
        """
        placements = {device.placement for device in self.mig_devices}
        if not self.memory_slices or not self.mig_enabled or self.instances is None:
            return None
        if None in placements:
            return None
        taken = {each.placement for each in self.instances} | placements
        used = {n for at in taken if at is not None for n in range(at.start, at.end)}
        return tuple(n for n in range(self.memory_slices) if n not in used)

    def unread(self) -> tuple[str, ...]:
        """What could not be read of it, and below it."""
        unknown = (
            f"GPU {self.index}: {each}" for each in (self.mig_unknown, self.uncounted) if each
        )
        return (*unknown, *self.unreadable.values(), *self.warnings)

    @property
    def mig_pending(self) -> bool:
        """A switch of MIG mode waits for a GPU reset: the GPU must not be advertised meanwhile."""
        return self.mig is not None and self.mig.current != self.mig.pending


#: Something that can be handed to a container.
Device = Gpu | MigDevice


class Inventory(Struct, frozen=True, dict=True):  # for the cached property
    """One scan of a node.

    ``control_nodes`` are the nodes every GPU container needs and that exist (``/dev/nvidiactl`` …).
    ``unreadable`` maps indices at which there is a GPU without a readable UUID to what the driver
    said; ``hung`` are those among them where a call has not returned. ``doubts`` maps UUIDs that
    were looked for and not found to why they may be there. ``machine`` is the product name in the
    firmware's tables, empty where it cannot be read. ``dev_root`` is the host's root of the device
    nodes where it certainly is not that of the settings.
    """

    gpus: tuple[Gpu, ...] = ()
    driver_version: str = ""
    nvml_version: str = ""
    cuda_version: tuple[int, int] | None = None
    control_nodes: tuple[str, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=lambda: _NONE)
    hung: frozenset[int] = frozenset()
    doubts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: str = ""
    dev_root: str = ""

    def devices(self) -> tuple[Device, ...]:
        """Every GPU and every MIG device, in order."""
        found: list[Device] = []
        for gpu in self.gpus:
            found.append(gpu)
            found.extend(gpu.mig_devices)
        return tuple(found)

    def device(self, uuid: str) -> Device | None:
        """The GPU or MIG device of this UUID."""
        return self._by_uuid.get(uuid)

    @functools.cached_property
    def _by_uuid(self) -> Mapping[str, Device]:
        return {device.uuid: device for device in self.devices()}

    def gpu(self, uuid: str) -> Gpu | None:
        """The GPU of this UUID."""
        found = self.device(uuid)
        return found if isinstance(found, Gpu) else None

    def warnings(self) -> tuple[str, ...]:
        """Everything that the driver could not read."""
        return (
            *self.unreadable.values(),
            *(warning for gpu in self.gpus for warning in gpu.unread()),
        )
