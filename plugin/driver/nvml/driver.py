"""The driver protocol over NVML."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pynvml
from msgspec.structs import replace

from plugin.core.health.events import Probe
from plugin.core.inventory.model import Gpu, GpuInstance, Inventory, MigMode, Placement
from plugin.driver.files import DeviceFiles
from plugin.driver.hangs import GpuRef, Hangs, Hung, about
from plugin.driver.nvml import changes, probes
from plugin.driver.nvml import library as nvml
from plugin.driver.nvml.binding import using
from plugin.driver.nvml.clients import read_clients
from plugin.driver.nvml.events import NvmlEventSource
from plugin.driver.nvml.handles import gpu_handle
from plugin.driver.nvml.loading import Loader
from plugin.driver.nvml.offers import read_offers, read_remaining
from plugin.driver.nvml.refusals import NO_PROFILE, reading
from plugin.driver.nvml.scan import GpuReader, doubt, unchanged
from plugin.driver.nvml.versions import Versions, read_versions
from plugin.errors import (
    NO_CODE,
    DriverCallFailed,
    DriverMismatch,
    DriverReplaced,
    DriverStale,
    DriverUnavailable,
    GpuHangs,
)

if TYPE_CHECKING:
    from plugin.core.inventory.geometry import Client, ComputeInstance, ProfileOffer
    from plugin.core.inventory.samples import Samples
    from plugin.driver.nvml.samples import Sampler

_NOT_OPEN = "the driver is not open"

#: Far above any node; more is no answer.
MOST_GPUS = 256


class NvmlDriver:
    """NVIDIA's driver. Belongs to one thread, except for the event sources that it makes."""

    def __init__(
        self,
        files: DeviceFiles | None = None,
        library: object | None = None,
        loader: Loader | None = None,
    ) -> None:
        """`library` is an already loaded one; without it `loader` finds one."""
        self._files = files or DeviceFiles()
        self._library = library
        self._loader = (loader or Loader()) if library is None else None
        self._initialised = False
        self._worked = False
        self._readers: dict[int, GpuReader] = {}
        #: Made by the first round: a start needs none.
        self._sampler: Sampler | None = None
        self._seen: tuple[Gpu, ...] = ()
        self._sources: list[NvmlEventSource] = []
        self._listed: frozenset[str] | None = None
        #: The newest reading of each GPU, by index: what is known of one that hangs.
        self._last: dict[int, Gpu] = {}
        self._handles: dict[str, Any] = {}
        self._versions: Versions | None = None
        self.hangs = Hangs()

    def open(self) -> None:
        if self._initialised and self.hangs.open:
            return  # nothing may be shut down under a thread that is still in there
        if self._loader is not None and (
            self._library is None or (not self._worked and self._loader.has_changed())
        ):
            self._library = self._loader.load()
        # NVML counts its users: a session that has lost the driver stays dead until the last of
        # them has shut down.
        if self._initialised:
            self.close()
        if self._initialised:
            return
        self._listed = (
            self._files.pci_addresses()
        )  # before NVML looks, so that none comes unseen in between
        try:
            with using(self._library, self.hangs):
                nvml.initialise()
        except DriverMismatch as error:
            if self._worked:
                raise DriverReplaced(
                    error.what, "ending, so that a new process loads the new library"
                ) from error
            error.final = self._loader is not None and self._loader.is_final
            raise
        self._initialised = self._worked = True

    def close(self) -> None:
        """Shut NVML down, after closing the event sources, which takes until nobody waits for their
        events. Nothing is shut down under a thread that is still in the library.
        """
        if self.hangs.open:
            return
        for source in self._sources:
            source.close()
        self._sources = [source for source in self._sources if source.is_waited_for]
        if self._sources:
            return
        self._seen = ()
        with using(self._library, self.hangs):
            if self._sampler is not None:
                self._sampler.close()
            if self._initialised:
                nvml.shut_down()
                self._initialised = False
        self._readers.clear()
        self._last.clear()
        self._handles.clear()
        self._versions = None

    def held(self) -> tuple[str, ...]:
        held = [
            _does_not_answer(hung.call.gpu, hung) if hung.call.gpu is not None else str(hung)
            for hung in self.hangs.open
        ]
        if any(source.is_waited_for for source in self._sources):
            held.append("a thread still waits for events")
        opened = self._files.opened()
        if opened and not held:
            held.append(f"this process has {', '.join(opened)} open")
        if self._initialised and not held:
            held.append("NVML is initialised")
        return tuple(held)

    def scan(self, sought: Collection[str] = (), *, thorough: bool = True) -> Inventory:
        self._require_open()
        with using(self._library, self.hangs):
            return self._scan(sought, thorough=thorough)

    def watch(self, gpu_uuids: Sequence[str]) -> NvmlEventSource:
        self._require_open()
        source = NvmlEventSource(gpu_uuids, self._library, self.hangs)
        self._sources = [*(other for other in self._sources if not other.closed), source]
        return source

    def probe(self, gpu_uuid: str, *, thorough: bool) -> Probe:
        if not self._initialised:
            return Probe(gpu_uuid, error=_NOT_OPEN)
        gpu = self._ref(gpu_uuid)
        if (hung := self.hangs.of_gpu(gpu)) is not None:
            return Probe(gpu_uuid, error=_does_not_answer(gpu, hung))
        with using(self._library, self.hangs), about(gpu):
            return probes.probe(gpu_uuid, self._handles, thorough=thorough)

    def sample(self) -> Samples:
        if self._sampler is None:
            from plugin.driver.nvml.samples import Sampler  # noqa: PLC0415 — see above

            self._sampler = Sampler()
        for hung in self.hangs.open:
            # What it was measuring into is the library's until the call returns.
            self._sampler.forget(hung.call.gpu)
        with using(self._library, self.hangs):
            return self._sampler.sample(self._seen)

    def stop_sampling(self) -> None:
        if self._sampler is None:
            return
        for hung in self.hangs.open:
            self._sampler.forget(hung.call.gpu)
        with using(self._library, self.hangs):
            self._sampler.close()

    # ---- instances

    def profiles(self, gpu_uuid: str) -> tuple[ProfileOffer, ...]:
        with self._asking(gpu_uuid), reading():
            return read_offers(gpu_handle(gpu_uuid))

    def look(self, gpu_uuid: str) -> Gpu:
        with self._asking(gpu_uuid), reading():
            for index, last in self._last.items():
                if last.uuid == gpu_uuid:
                    gpu = self._readers.setdefault(index, GpuReader(index, self._files)).read()
                    if gpu.uuid == gpu_uuid:
                        self._last[index] = gpu
                        return gpu
        raise DriverStale(f"{gpu_uuid} is not where the last scan saw it", "scan again")

    def remaining(self, gpu_uuid: str, profile_id: int) -> int:
        with self._asking(gpu_uuid), reading(NO_PROFILE):
            return read_remaining(gpu_handle(gpu_uuid), profile_id)

    def processes(self, uuid: str) -> tuple[Client, ...]:
        with self._asking(uuid), reading():
            return read_clients(uuid)

    def create_gpu_instance(
        self, gpu_uuid: str, profile_id: int, placement: Placement
    ) -> GpuInstance:
        readers = (reader for reader in self._readers.values() if reader.uuid == gpu_uuid)
        name = next((reader.profile_name(profile_id) for reader in readers), None)
        with self._asking(gpu_uuid):
            return changes.create_gpu_instance(gpu_uuid, profile_id, placement, name)

    def create_compute_instance(
        self, gpu_uuid: str, gi: int, slices: int, placement: Placement | None = None
    ) -> ComputeInstance:
        with self._asking(gpu_uuid):
            made = changes.create_compute_instance(gpu_uuid, gi, slices, placement)
        minor = next((gpu.minor for gpu in self._last.values() if gpu.uuid == gpu_uuid), None)
        if minor is not None:
            self._files.make_missing(minor, gi, made.id)
        return made

    def destroy_compute_instance(self, gpu_uuid: str, gi: int, ci: int) -> None:
        with self._asking(gpu_uuid):
            changes.destroy_compute_instance(gpu_uuid, gi, ci)

    def destroy_gpu_instance(self, gpu_uuid: str, gi: int) -> None:
        with self._asking(gpu_uuid):
            changes.destroy_gpu_instance(gpu_uuid, gi)

    def set_mig_mode(self, gpu_uuid: str, *, on: bool) -> MigMode:
        with self._asking(gpu_uuid):
            try:
                return changes.set_mig_mode(gpu_uuid, on=on)
            finally:
                # A GPU that was unbound and reset may have another minor number.
                for index, reader in list(self._readers.items()):
                    if reader.uuid == gpu_uuid:
                        self._readers.pop(index)

    @contextlib.contextmanager
    def _asking(self, uuid: str) -> Iterator[None]:
        """Ask about one GPU, unless a call about it has not returned."""
        self._require_open()
        gpu = self._ref(uuid)
        if (hung := self.hangs.of_gpu(gpu)) is not None:
            raise GpuHangs(_does_not_answer(gpu, hung), code=NO_CODE)
        if not self.hangs.open:
            self._require_same_gpus()
        with using(self._library, self.hangs), about(gpu):
            yield

    def _require_open(self) -> None:
        if not self._initialised:
            raise DriverUnavailable(_NOT_OPEN)

    def _scan(self, sought: Collection[str], *, thorough: bool) -> Inventory:
        what = "counting the GPUs"
        try:
            count = nvml.call(what, pynvml.nvmlDeviceGetCount)
            if count > MOST_GPUS:
                raise nvml.absurd(what, str(count))
        except DriverCallFailed as error:
            raise nvml.no_answer(error) from error
        if not self.hangs.open:
            self._require_same_gpus()
        control_nodes = self._files.control_nodes()
        gpus = []
        unreadable = {}
        hanging = set()
        for index in range(count):
            last = self._last.get(index)
            ref = GpuRef(index, last.uuid if last is not None else None)
            if (hung := self.hangs.of_gpu(ref)) is not None:
                text = _does_not_answer(ref, hung)
                if last is not None:
                    gpus.append(replace(last, error=text, hung=True))
                else:
                    unreadable[index] = text
                    hanging.add(index)
                continue
            try:
                with about(ref):
                    gpus.append(self._gpu(index, last, thorough=thorough))
            except DriverCallFailed as error:
                self._readers.pop(index)
                unreadable[index] = f"GPU {index} cannot be read: {error}"
        self._seen = tuple(gpus)
        if thorough or self._versions is None:
            self._versions = read_versions()
        versions = self._versions
        return Inventory(
            gpus=self._seen,
            driver_version=versions.driver,
            nvml_version=versions.nvml,
            cuda_version=versions.cuda,
            control_nodes=control_nodes,
            unreadable=MappingProxyType(unreadable),
            hung=frozenset(hanging),
            doubts=MappingProxyType(_doubts(gpus, sought)),
            machine=self._files.machine(),
            dev_root=self._files.host_root,
        )

    def _gpu(self, index: int, last: Gpu | None, *, thorough: bool) -> Gpu:
        """Raises :class:`DriverCallFailed`."""
        if not thorough and last is not None and self._announces(last.uuid):
            same = unchanged(last, self._files)
            if same is not None:
                return same
        reader = self._readers.setdefault(index, GpuReader(index, self._files))
        gpu = self._last[index] = reader.read()
        return gpu

    def _announces(self, uuid: str) -> bool:
        """Whether changes of a GPU's MIG configuration come as events that somebody waits for."""
        return any(uuid in source.announces for source in self._sources if not source.closed)

    def _ref(self, uuid: str) -> GpuRef:
        """The GPU of a UUID, or that of the MIG device of the UUID, as far as known."""
        for gpu in self._last.values():
            if uuid == gpu.uuid or any(uuid == device.uuid for device in gpu.mig_devices):
                return GpuRef(gpu.index, gpu.uuid)
        return GpuRef(uuid=uuid)

    def _require_same_gpus(self) -> None:
        """Raise :class:`DriverStale` when the kernel module has other GPUs than when NVML was
        initialised.
        """
        before, now = self._listed, self._files.pci_addresses()
        if before is None:
            self._listed = now
        if before is None or now is None or now == before:
            return
        changes = [f"{bus} came" for bus in sorted(now - before)]
        changes += [f"{bus} went" for bus in sorted(before - now)]
        raise DriverStale(
            f"GPUs came or went ({', '.join(changes)})", "NVML must be initialised again"
        )


def _does_not_answer(gpu: GpuRef, hung: Hung) -> str:
    return f"{gpu} does not answer: {hung}"


def _doubts(gpus: Sequence[Gpu], sought: Collection[str]) -> dict[str, str]:
    """Why devices may be there that were not found: the driver is asked for each by its UUID."""
    found = {gpu.uuid for gpu in gpus} | {d.uuid for gpu in gpus for d in gpu.mig_devices}
    asked = ((uuid, doubt(uuid)) for uuid in sought if uuid not in found)
    return {uuid: why for uuid, why in asked if why is not None}
