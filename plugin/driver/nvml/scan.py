"""Reading one GPU and its MIG devices: what fails is written into the answer, next to what could be
read.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pynvml
from msgspec.structs import replace

from plugin.core.inventory.card import CardProfiles
from plugin.core.inventory.model import Gpu, MigMode, Unknown
from plugin.driver.files import DeviceFiles, sysfs_bus_id
from plugin.driver.nvml import texts
from plugin.driver.nvml.instances import Instances, read_instances
from plugin.driver.nvml.library import absurd, ask, call
from plugin.driver.nvml.mig import HAS_NONE, MOST_MIG_DEVICES, Walk
from plugin.driver.nvml.profiles import read_profiles
from plugin.errors import DriverCallFailed

#: Far above any machine; more is no answer.
MOST_MINOR = 4095

#: What a UUID that is looked for answers when nothing has it.
_DENIALS = frozenset({pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT})


class GpuReader:
    """Reads one GPU index again and again; what cannot change while the GPU stays is asked until
    it was answered, then no more.
    """

    def __init__(self, index: int, files: DeviceFiles) -> None:
        self._index = index
        self._files = files
        self._static = Gpu("", index)
        self._has_mig = True
        self._profiles: CardProfiles | None = None

    @property
    def uuid(self) -> str:
        """Of the GPU that was read last, empty before."""
        return self._static.uuid

    def profile_name(self, profile_id: int) -> str | None:
        """The name of a profile of the GPU, ``None`` where that is not known from before."""
        profile = self._profiles.of_id(profile_id) if self._profiles is not None else None
        return profile.name if profile is not None else None

    def read(self) -> Gpu:
        """The GPU as it is now. Raises :class:`DriverCallFailed` when not even its UUID can be
        read.
        """
        handle = call("getting its handle", pynvml.nvmlDeviceGetHandleByIndex, self._index)
        uuid = texts.text("reading its UUID", pynvml.nvmlDeviceGetUUID, handle)
        if self._static.uuid != uuid:
            self._static, self._profiles = Gpu(uuid, self._index), None
            self._has_mig = True
        try:
            warnings, error = self._read_static(handle)
            gpu = self._with_nodes(warnings)
            return replace(self._read_mig(handle, gpu), error=error)
        except DriverCallFailed as failure:
            unknown = None if not self._has_mig else Unknown(failure.what, failure.code)
            return replace(
                self._with_nodes([]), mig_unknown=unknown, error=self._said(str(failure))
            )

    def _said(self, text: str) -> str:
        return f"GPU {self._index}: {text}"

    def _with_nodes(self, warnings: list[str]) -> Gpu:
        nodes, missing = self._files.gpu(self._static.minor)
        return replace(
            self._static,
            device_nodes=nodes,
            missing_device_nodes=missing,
            warnings=tuple(warnings),
        )

    def _read_static(self, handle: Any) -> tuple[list[str], str | None]:
        """Complete what is known of the GPU; returns what could not be read, and the error where
        that is something without which no container can use it. Raises
        :class:`DriverCallFailed` only when the GPU is lost.
        """
        warnings: list[str] = []
        error = None

        def read(function: Callable[[], Gpu]) -> str | None:
            try:
                self._static = function()
            except DriverCallFailed as failure:
                if failure.gpu_lost:
                    raise
                return self._said(str(failure))
            return None

        known = self._static
        # A device node that is not there may be that of another number, misread once.
        if known.minor is None or self._files.gpu(known.minor)[1]:
            error = read(lambda: self._minor(handle))
        if not known.pci_bus_id:
            warnings += filter(None, [read(lambda: self._address(handle))])
        if not known.product:
            warnings += filter(None, [self._product(handle)])
        if not known.memory_mib:
            warnings += filter(None, [read(lambda: self._memory(handle))])
        if known.compute_capability is None:
            warnings += filter(None, [read(lambda: self._capability(handle))])
        return warnings, error

    def _minor(self, handle: Any) -> Gpu:
        what = "reading its minor number"
        minor = call(what, pynvml.nvmlDeviceGetMinorNumber, handle)
        if minor > MOST_MINOR:
            raise absurd(what, str(minor))
        return replace(self._static, minor=minor)

    def _address(self, handle: Any) -> Gpu:
        what = "reading its PCI address"
        pci = call(what, pynvml.nvmlDeviceGetPciInfo, handle)
        bus_id = sysfs_bus_id(texts.field(pci, "busId").sound(what))
        numa = self._files.numa(bus_id)
        return replace(
            self._static,
            pci_bus_id=bus_id,
            pci_device_id=pci.pciDeviceId,
            pci_class=self._files.pci_class(bus_id),
            numa=numa if numa is not None else _numa_by_driver(handle),
        )

    def _capability(self, handle: Any) -> Gpu:
        capability = ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        return replace(self._static, compute_capability=capability)

    def _product(self, handle: Any) -> str | None:
        """Its name is for people: a damaged one is better than none."""
        try:
            name = texts.ask_text(pynvml.nvmlDeviceGetName, handle)
        except DriverCallFailed as failure:
            if failure.gpu_lost:
                raise
            return self._said(str(failure))
        if name is None:
            return None
        if name.damaged:
            return self._said(f"reading its name: the driver's answer is no text: {name.value}")
        self._static = replace(self._static, product=name.value)
        return None

    def _memory(self, handle: Any) -> Gpu:
        memory = call("reading its memory", pynvml.nvmlDeviceGetMemoryInfo, handle)
        return replace(self._static, memory_mib=memory.total >> 20)

    def _read_mig(self, handle: Any, gpu: Gpu) -> Gpu:
        if not self._has_mig:
            return gpu
        mode = _mode(handle)
        card = self._card(handle, gpu)
        count = _count(handle)
        if self._certainly_none(mode, card, count):
            self._has_mig = False
            return gpu
        on = isinstance(mode, MigMode) and mode.current
        if on and count == 0:
            count = Unknown("counting its MIG devices: the driver says none can be with MIG on")
        instances = read_instances(handle, card) if on else Instances({})
        walk = Walk(handle, gpu, card, instances, self._files)
        walk.go(card.compute_slices if isinstance(count, Unknown) else count)
        return replace(
            gpu,
            mig=mode if isinstance(mode, MigMode) else None,
            mig_unknown=mode if isinstance(mode, Unknown) else None,
            mig_devices=walk.devices(),
            instances=instances.named(card),
            memory_slices=card.memory_slices,
            warnings=(*gpu.warnings, *_unread(gpu, card), *walk.warnings),
            unreadable=MappingProxyType(walk.unreadable),
            uncounted=count if isinstance(count, Unknown) else None,
        )

    def _card(self, handle: Any, gpu: Gpu) -> CardProfiles:
        if self._profiles is None:
            card = read_profiles(handle, gpu.memory_mib)
            if not card.complete or not gpu.memory_mib:
                return card
            self._profiles = card
        return self._profiles

    @staticmethod
    def _certainly_none(mode: MigMode | Unknown, card: CardProfiles, count: int | Unknown) -> bool:
        """Whether the card has no MIG: two independent answers say so and nothing denies it."""
        return (
            isinstance(mode, Unknown)
            and mode.code in HAS_NONE
            and not card.profiles
            and card.complete
            and (not count if isinstance(count, int) else count.code in HAS_NONE)
        )


def _mode(handle: Any) -> MigMode | Unknown:
    """Raises :class:`DriverCallFailed` only when the GPU is lost."""
    what = "reading its MIG mode"
    try:
        current, pending = call(what, pynvml.nvmlDeviceGetMigMode, handle)
        if not {current, pending} <= {0, 1}:
            raise absurd(what, f"mode {current}, pending {pending}")
    except DriverCallFailed as error:
        return _unless_lost(error)
    return MigMode(bool(current), bool(pending))


def _count(handle: Any) -> int | Unknown:
    """How many MIG devices the GPU can have. Raises :class:`DriverCallFailed` only when the GPU is
    lost.
    """
    what = "counting its MIG devices"
    try:
        count: int = call(what, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle)
        if count > MOST_MIG_DEVICES:
            raise absurd(what, f"up to {count} of them")
    except DriverCallFailed as error:
        return _unless_lost(error)
    return count


def _unless_lost(error: DriverCallFailed) -> Unknown:
    if error.gpu_lost:
        raise error
    return Unknown(error.what, error.code, error.fix)


def _unread(gpu: Gpu, card: CardProfiles) -> list[str]:
    return [f"GPU {gpu.index}: {why}" for why in (card.unknown, card.unplaced) if why is not None]


def _numa_by_driver(handle: Any) -> int | None:
    try:
        return ask(pynvml.nvmlDeviceGetNumaNodeId, handle)
    except DriverCallFailed as error:
        if error.gpu_lost:
            raise
        return None


def unchanged(last: Gpu, files: DeviceFiles) -> Gpu | None:
    """The GPU as it was last read, with its device nodes as they are now, if the kernel module's
    files list the very instances that it had; ``None`` where it has to be read anew. Asks the
    driver nothing.
    """
    odd = last.error or last.warnings or last.unreadable or last.uncounted or last.mig_unknown
    if odd or not last.mig_devices or last.instances is None:
        return None
    listed = files.instances(last.minor)
    compute = {(device.gi, device.ci) for device in last.mig_devices}
    if listed is None or listed != ({each.id for each in last.instances}, compute):
        return None
    nodes, missing = files.gpu(last.minor)
    devices = []
    for device in last.mig_devices:
        if device.error:
            return None
        own, lacking = files.mig(last.minor, device.gi, device.ci)
        if (own, lacking) != (device.device_nodes, device.missing_device_nodes):
            device = replace(device, device_nodes=own, missing_device_nodes=lacking)  # noqa: PLW2901
        devices.append(device)
    now = replace(
        last, device_nodes=nodes, missing_device_nodes=missing, mig_devices=tuple(devices)
    )
    return last if now == last else now  # what is the very same is quickly compared from here on


def doubt(uuid: str) -> str | None:
    """Why a device may be there that a scan has not shown; ``None`` when the driver denies it in
    this way too.
    """
    try:
        handle = call(f"looking for {uuid}", pynvml.nvmlDeviceGetHandleByUUID, uuid)
        found = texts.text(f"looking for {uuid}", pynvml.nvmlDeviceGetUUID, handle)
    except DriverCallFailed as error:
        return None if error.code in _DENIALS else str(error)
    if found != uuid:
        return None  # a handle from memory, which has gone to another device since
    return f"the driver finds {uuid} by its UUID and not by its index"
