"""The simulated driver: reads a simulated node as the NVML driver reads a real one, faults
included.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from plugin.core.health.events import Probe
from plugin.core.inventory.model import Gpu, Inventory, MigDevice, MigMode, Placement
from plugin.core.inventory.profiles import profile_by_arithmetic
from plugin.core.inventory.samples import Samples
from plugin.errors import DriverCallFailed, DriverUnavailable
from plugin.sim.hardware.codes import Code, NodeError, call_failed
from plugin.sim.hardware.engine import CONTROL_NODES, SimNode
from plugin.sim.hardware.faults import NO_ANSWER, Aspect, Faults
from plugin.sim.hardware.gpu import GpuState, MigSlot
from plugin.sim.samples import SimSampler
from plugin.sim.watch import SimEventSource, probe

_MIB = 1 << 20
_CAPABILITIES = "/proc/driver/nvidia/capabilities"
MIG_MINORS = "/proc/driver/nvidia-caps/mig-minors"

#: Codes that mean "no MIG device under this index".
_HOLES = frozenset({Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.NOT_SUPPORTED})


def capability_minor(gpu_minor: int, gi: int, ci: int | None = None) -> int:
    """Minor of ``/dev/nvidia-caps/nvidia-cap<minor>`` for a GPU instance or a compute instance in
    it.
    """
    minor = 3 + 135 * gpu_minor + 9 * gi
    return minor if ci is None else minor + 1 + ci


class SimDriver:
    """A :class:`plugin.driver.base.Driver` whose hardware is a
    :class:`~plugin.sim.hardware.engine.SimNode`.
    """

    def __init__(self, engine: SimNode) -> None:
        self.engine = engine
        self._sources: list[SimEventSource] = []
        self._sampler = SimSampler(engine)
        self._seen: tuple[Gpu, ...] = ()

    def open(self) -> None:
        try:
            self.engine.enter()
        except NodeError as error:
            raise DriverUnavailable(
                f"the simulated driver cannot be used: {error}", "load it again"
            ) from error

    def close(self) -> None:
        sources, self._sources = self._sources, []
        for source in sources:
            source.close()
        self._seen = ()
        self._sampler.close()

    def scan(self) -> Inventory:
        self.open()
        engine, versions, gpus = self.engine, self.engine.versions, []
        unreadable = {}
        for index, state in enumerate(engine.gpus):
            try:
                gpus.append(_Reader(engine.faults, state, index).read())
            except DriverCallFailed as error:
                unreadable[index] = f"GPU {index} cannot be read: {error}"
        self._seen = tuple(gpus)
        return Inventory(
            gpus=self._seen,
            driver_version=versions.driver,
            nvml_version=versions.nvml,
            cuda_version=(versions.cuda // 1000, versions.cuda % 1000 // 10),
            control_nodes=tuple(
                node for node in CONTROL_NODES if node not in engine.faults.removed
            ),
            unreadable=MappingProxyType(unreadable),
        )

    def watch(self, gpu_uuids: Sequence[str]) -> SimEventSource:
        source = SimEventSource(self.engine, gpu_uuids)
        self._sources = [*(other for other in self._sources if not other.closed), source]
        return source

    def probe(self, gpu_uuid: str, *, thorough: bool) -> Probe:
        return probe(self.engine, gpu_uuid, thorough=thorough)

    def sample(self) -> Samples:
        return self._sampler.sample(self._seen)


class _Reader:
    """Reads one GPU, which has this index among those that are there."""

    def __init__(self, faults: Faults, gpu: GpuState, index: int) -> None:
        self._faults = faults
        self._gpu = gpu
        self._index = index
        self._removed = faults.removed
        self._node = f"/dev/nvidia{gpu.minor}"
        self._unmonitored = faults.code(gpu.uuid, Aspect.GPU_INSTANCES) is not None

    def read(self) -> Gpu:
        """The GPU with what can be read of it. Raises :class:`DriverCallFailed` when it cannot be
        identified.
        """
        gpu = self._gpu
        if gpu.lost:
            raise call_failed("getting its handle", Code.GPU_IS_LOST)
        self._check("getting its handle", gpu.uuid, Aspect.HANDLE)
        self._check("reading its UUID", gpu.uuid, Aspect.UUID)
        try:
            self._check("reading its PCI address", gpu.uuid, Aspect.PCI)
            self._check("reading its minor number", gpu.uuid, Aspect.MINOR)
            named = self._answers("nvmlDeviceGetName", gpu.uuid, Aspect.NAME)
            self._check("reading its memory", gpu.uuid, Aspect.MEMORY)
            capability = self._answers(
                "nvmlDeviceGetCudaComputeCapability", gpu.uuid, Aspect.CAPABILITY
            )
        except DriverCallFailed as error:
            return Gpu(gpu.uuid, self._index, error=f"GPU {self._index}: {error}")
        mig, problem = False, None
        try:
            mig = (
                self._answers("nvmlDeviceGetMigMode", gpu.uuid, Aspect.MIG_MODE)
                and gpu.card.mig_capable
            )
        except DriverCallFailed as error:
            problem = f"GPU {self._index}: {error}"
        devices, warnings, unreadable = self._devices() if mig else ([], [], {})
        return Gpu(
            uuid=gpu.uuid,
            index=self._index,
            minor=gpu.minor,
            pci_bus_id=gpu.pci_bus_id,
            pci_device_id=gpu.card.pci_device_id,
            numa=gpu.numa,
            product=gpu.card.product if named else "",
            memory_mib=gpu.card.memory_bytes // _MIB,
            compute_capability=gpu.card.compute_capability if capability else None,
            mig=MigMode(gpu.mig, gpu.mig_pending) if mig else None,
            mig_devices=tuple(devices),
            memory_slices=gpu.card.memory_slices if mig else 0,
            device_nodes=(self._node,),
            missing_device_nodes=(self._node,) if self._node in self._removed else (),
            error=problem,
            warnings=tuple(warnings),
            unreadable=MappingProxyType(unreadable),
        )

    def _devices(self) -> tuple[list[MigDevice], list[str], dict[int, str]]:
        devices, warnings, unreadable = [], [], {}
        for slot in self._gpu.devices():
            if self._faults.code(slot.ci.uuid, Aspect.HANDLE) in _HOLES:
                continue
            try:
                self._check("getting its handle", slot.ci.uuid, Aspect.HANDLE)
                self._check("reading its UUID", slot.ci.uuid, Aspect.UUID)
                self._check("reading its GPU instance id", slot.ci.uuid, Aspect.INSTANCE_IDS)
            except DriverCallFailed as error:
                unreadable[slot.index] = (
                    f"MIG device {self._index}:{slot.index} cannot be read: {error}"
                )
                continue
            device = self._device(slot)
            devices.append(device)
            if device.error:
                warnings.append(device.error)
        return devices, warnings, unreadable

    def _device(self, slot: MigSlot) -> MigDevice:
        gpu, gi, ci, profile = self._gpu, slot.gi, slot.ci, slot.gi.profile
        nodes, missing = self._nodes(gi.id, ci.id)
        placement: Placement | None = gi.placement
        name = profile.device_name(ci.slices)
        if self._unmonitored:
            placement = None
            name = profile_by_arithmetic(
                ci.slices, profile.slices, profile.memory_mib, gpu.card.memory_bytes // _MIB
            )
        try:
            self._check("reading its attributes", ci.uuid, Aspect.ATTRIBUTES)
        except DriverCallFailed as error:
            return MigDevice(
                uuid=ci.uuid,
                gpu_uuid=gpu.uuid,
                gpu_index=self._index,
                index=slot.index,
                gi=gi.id,
                ci=ci.id,
                profile="",
                placement=placement,
                device_nodes=nodes,
                missing_device_nodes=missing,
                error=f"MIG device {self._index}:{slot.index}: {error}",
                numa=gpu.numa,
            )
        return MigDevice(
            uuid=ci.uuid,
            gpu_uuid=gpu.uuid,
            gpu_index=self._index,
            index=slot.index,
            gi=gi.id,
            ci=ci.id,
            profile=name,
            memory_mib=profile.memory_mib,
            multiprocessors=profile.multiprocessors_of(ci.slices),
            gi_slices=profile.slices,
            ci_slices=ci.slices,
            engines=profile.engines,
            placement=placement,
            device_nodes=nodes,
            missing_device_nodes=missing,
            numa=gpu.numa,
        )

    def _nodes(self, gi: int, ci: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Nodes of a MIG device and those missing; a capability of unknown number is missing by its
        file's name.
        """
        minor, removed = self._gpu.minor, self._removed
        nodes, missing = [self._node], [self._node] if self._node in removed else []
        for folder, number in (
            (f"gpu{minor}/mig/gi{gi}", capability_minor(minor, gi)),
            (f"gpu{minor}/mig/gi{gi}/ci{ci}", capability_minor(minor, gi, ci)),
        ):
            node = f"/dev/nvidia-caps/nvidia-cap{number}"
            if removed and MIG_MINORS in removed and f"{_CAPABILITIES}/{folder}/access" in removed:
                missing.append(f"{_CAPABILITIES}/{folder}/access")
                continue
            nodes.append(node)
            if node in removed:
                missing.append(node)
        return tuple(nodes), tuple(missing)

    def _check(self, what: str, uuid: str, aspect: Aspect) -> None:
        code = self._faults.code(uuid, aspect)
        if code is not None:
            raise call_failed(what, code)

    def _answers(self, function: str, uuid: str, aspect: Aspect) -> bool:
        """Whether an optional question is answered; raises when it fails."""
        if self._faults.code(uuid, aspect) in NO_ANSWER:
            return False
        self._check(function, uuid, aspect)
        return True
