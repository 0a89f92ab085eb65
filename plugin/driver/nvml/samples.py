"""Measuring GPUs and MIG devices through NVML: one round over what the last scan saw, at the least
driver time.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import pynvml

from plugin.core.inventory.model import Gpu, MigDevice
from plugin.core.inventory.samples import Activity, CardSample, DeviceSample, Samples
from plugin.driver.hangs import GpuRef, about
from plugin.driver.nvml.binding import exported
from plugin.driver.nvml.gpm import ActivityMeter
from plugin.driver.nvml.library import absurd, ask, call
from plugin.errors import DriverCallFailed

#: Energy takes the driver some 4 ms, fifty times as long as another sensor, and it only adds up.
ENERGY_ROUNDS = 10

#: How long an answer such as Not Supported holds.
REFUSED_SECONDS = 45.0

#: Far above any device; more is no answer.
MOST_PROCESSES = 1_000_000

_CORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED


class Sampler:
    """Measures again and again; belongs to one session with the driver and to one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gpus: dict[str, _GpuSampler] = {}

    def sample(self, gpus: Iterable[Gpu]) -> Samples:
        """One round; see :meth:`plugin.driver.base.Driver.sample`."""
        now, started = time.time(), time.perf_counter()
        there = {gpu.uuid: gpu for gpu in gpus}
        for uuid, sampler in list(self._gpus.items()):
            if uuid not in there or sampler.mig != there[uuid].mig_enabled:
                with about(GpuRef(uuid=uuid)):
                    self._gpus.pop(uuid).close()
        cards: dict[str, CardSample] = {}
        devices: dict[str, DeviceSample] = {}
        for uuid, gpu in there.items():
            sampler = self._gpus.setdefault(uuid, _GpuSampler(gpu, self._clock))
            try:
                with about(GpuRef(gpu.index, uuid)):
                    card, on_card = sampler.sample(gpu)
            except DriverCallFailed:
                continue  # it cannot be had or is lost, of which scans and probes tell
            cards[uuid] = card
            devices.update(on_card)
        return Samples(now, time.perf_counter() - started, devices, cards)

    def forget(self, gpu: GpuRef | None) -> None:
        """Start anew with a GPU, without freeing what the library holds for it."""
        if gpu is not None and gpu.uuid is not None:
            self._gpus.pop(gpu.uuid, None)

    def close(self) -> None:
        """Free what the library holds for us and forget what cards cannot do. Before NVML is shut
        down.
        """
        while self._gpus:
            uuid, sampler = self._gpus.popitem()
            with about(GpuRef(uuid=uuid)):
                sampler.close()


class _Questions:
    """Asks devices; what one of them does not have, or does not tell this process, is not asked
    again for :data:`REFUSED_SECONDS`: the answer may have been wrong, and rights may change.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: Until when each question is not asked.
        self._refused: dict[tuple[Any, ...], float] = {}

    def ask(self, uuid: str, function: Any, handle: Any, *args: Any) -> Any | None:
        """The answer, ``None`` when there is none. Raises :class:`DriverCallFailed` only when the
        GPU is lost.
        """
        question = (uuid, function.__name__, *(arg for arg in args if isinstance(arg, int)))
        if self._clock() < self._refused.get(question, -math.inf):
            return None
        try:
            answer = ask(function, handle, *args)
        except DriverCallFailed as error:
            if error.gpu_lost:
                raise
            return None  # it may well answer the next time
        if answer is None:
            self._refused[question] = self._clock() + REFUSED_SECONDS
        return answer

    def keep(self, uuids: frozenset[str]) -> None:
        """Forget what was asked of other devices than these."""
        self._refused = {
            question: until for question, until in self._refused.items() if question[0] in uuids
        }


class _GpuSampler:
    """Measures one GPU, whose MIG mode stays as it is, and its MIG devices."""

    def __init__(self, gpu: Gpu, clock: Callable[[], float]) -> None:
        self.mig = gpu.mig_enabled
        self._rounds = 0
        self._energy: float | None = None
        self._has_gpm: bool | None = None
        self._questions = _Questions(clock)
        #: By GPU instance and its first device: an instance made anew under the same id has other
        #: devices.
        self._meters: dict[tuple[int | None, str], ActivityMeter] = {}

    def sample(self, gpu: Gpu) -> tuple[CardSample, dict[str, DeviceSample]]:
        """The card and its devices by UUID. Raises :class:`DriverCallFailed` when it cannot be had
        or is lost.
        """
        handle = call("getting its handle", pynvml.nvmlDeviceGetHandleByUUID, gpu.uuid)
        card = self._card(gpu, handle)
        self._rounds += 1
        self._questions.keep(frozenset({gpu.uuid, *(device.uuid for device in gpu.mig_devices)}))
        instances = _instances(gpu)
        for key in self._meters.keys() - instances.keys():
            self._meters.pop(key).close()
        if gpu.error is not None:
            return card, {}  # nobody knows which devices it has
        if not gpu.mig_devices:
            return card, {gpu.uuid: self._whole(gpu, handle)}
        devices: dict[str, DeviceSample] = {}
        for key, members in instances.items():
            activity = self._activity(gpu, handle, key)
            for device in members:
                try:
                    devices[device.uuid] = self._device(device, activity)
                except DriverCallFailed:
                    continue  # destroyed since the last scan, or as good as
        return card, devices

    def close(self) -> None:
        while self._meters:
            self._meters.popitem()[1].close()

    def _card(self, gpu: Gpu, handle: Any) -> CardSample:
        def read(function: Any, *args: Any) -> Any | None:
            return self._questions.ask(gpu.uuid, function, handle, *args)

        # Each GPU has its own turn, so that their slow answers do not fall into one round.
        if self._energy is None or self._rounds % ENERGY_ROUNDS == gpu.index % ENERGY_ROUNDS:
            energy = _scaled(read(pynvml.nvmlDeviceGetTotalEnergyConsumption), per=1000)
            self._energy = energy if energy is not None else self._energy
        rates = read(pynvml.nvmlDeviceGetUtilizationRates)
        rows = read(pynvml.nvmlDeviceGetRemappedRows) or (None, None, None, None)
        return CardSample(
            power=_scaled(read(pynvml.nvmlDeviceGetPowerUsage), per=1000),
            temperature=_scaled(read(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)),
            sm_clock=_scaled(
                read(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM), times=1_000_000
            ),
            memory_clock=_scaled(
                read(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM), times=1_000_000
            ),
            energy=self._energy,
            utilisation=_scaled(rates and rates.gpu, per=100),
            memory_utilisation=_scaled(rates and rates.memory, per=100),
            remapped_correctable=rows[0],
            remapped_uncorrectable=rows[1],
            remap_pending=_flag(rows[2]),
            remap_failure=_flag(rows[3]),
            # Of a card's life: with MIG on, the counts since the driver was loaded are the devices'
            # alone.
            ecc_corrected=read(
                pynvml.nvmlDeviceGetTotalEccErrors, _CORRECTED, pynvml.NVML_AGGREGATE_ECC
            ),
            ecc_uncorrected=read(
                pynvml.nvmlDeviceGetTotalEccErrors, _UNCORRECTED, pynvml.NVML_AGGREGATE_ECC
            ),
        )

    def _whole(self, gpu: Gpu, handle: Any) -> DeviceSample:
        def ecc(kind: int) -> Any | None:
            volatile = pynvml.NVML_VOLATILE_ECC
            return self._questions.ask(
                gpu.uuid, pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, volatile
            )

        return DeviceSample(
            **self._use(gpu.uuid, handle),
            # With MIG on and no instance there is nothing that could be active.
            activity=Activity()
            if gpu.mig_enabled
            else self._activity(gpu, handle, (None, gpu.uuid)),
            ecc_corrected=ecc(_CORRECTED),
            ecc_uncorrected=ecc(_UNCORRECTED),
        )

    def _device(self, device: MigDevice, activity: Activity) -> DeviceSample:
        # NVML may give a MIG device's handle to another one later: it has to be asked for again
        # each time.
        handle = call("getting its handle", pynvml.nvmlDeviceGetHandleByUUID, device.uuid)
        return DeviceSample(
            **self._use(device.uuid, handle),
            activity=activity,
            # Of single MIG devices, NVML counts only these.
            ecc_uncorrected=self._questions.ask(
                device.uuid,
                pynvml.nvmlDeviceGetMemoryErrorCounter,
                handle,
                _UNCORRECTED,
                pynvml.NVML_VOLATILE_ECC,
                pynvml.NVML_MEMORY_LOCATION_SRAM,
            ),
        )

    def _use(self, uuid: str, handle: Any) -> dict[str, Any]:
        """Memory and processes, as the fields of a :class:`DeviceSample`."""
        memory = self._questions.ask(
            uuid, pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2
        )
        reserved = getattr(memory, "reserved", None)
        if memory is None:  # drivers before R510 do not tell what is reserved, and count it as used
            memory = self._questions.ask(uuid, pynvml.nvmlDeviceGetMemoryInfo, handle)
        processes = self._questions.ask(uuid, _count_processes, handle)
        return {
            "memory_total": getattr(memory, "total", None),
            "memory_used": getattr(memory, "used", None),
            "memory_free": getattr(memory, "free", None),
            "memory_reserved": reserved,
            "processes": processes,
        }

    def _activity(self, gpu: Gpu, handle: Any, key: tuple[int | None, str]) -> Activity:
        if self._has_gpm is None:
            support = self._questions.ask(gpu.uuid, pynvml.nvmlGpmQueryDeviceSupport, handle)
            self._has_gpm = bool(support.isSupportedDevice) if support is not None else None
        if not self._has_gpm:
            return Activity()

        def take(buffer: Any) -> Any | None:
            if gi is None:
                return self._questions.ask(gpu.uuid, pynvml.nvmlGpmSampleGet, handle, buffer)
            return self._questions.ask(first, pynvml.nvmlGpmMigSampleGet, handle, gi, buffer)

        gi, first = key
        return self._meters.setdefault(key, ActivityMeter(gpu.index + (gi or 0))).read(take)


def _instances(gpu: Gpu) -> dict[tuple[int | None, str], list[MigDevice]]:
    """What activity is measured of, with the MIG devices in it: GPU instances, or a whole GPU."""
    found: dict[int, list[MigDevice]] = {}
    for device in gpu.mig_devices:
        found.setdefault(device.gi, []).append(device)
    if not found:
        return {} if gpu.mig_enabled else {(None, gpu.uuid): []}
    return {(gi, members[0].uuid): members for gi, members in found.items()}


def _count_processes(handle: Any) -> int:
    """How many processes have a context. pynvml's function would list them all, as many as the
    driver says.
    """
    count = ctypes.c_uint(0)
    code = exported("nvmlDeviceGetComputeRunningProcesses_v3")(handle, ctypes.byref(count), None)
    if code not in {pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_INSUFFICIENT_SIZE}:
        raise pynvml.NVMLError(code)
    if count.value > MOST_PROCESSES:
        raise absurd("counting processes", str(count.value))
    return count.value


def _scaled(value: int | None, *, times: int = 1, per: int = 1) -> float | None:
    return None if value is None else value * times / per


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)
