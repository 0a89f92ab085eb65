"""Samples of the simulated driver, as :mod:`plugin.driver.nvml.samples` takes them of a
real one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from plugin.core.inventory.model import Gpu
from plugin.core.inventory.samples import Activity, CardSample, DeviceSample, Samples
from plugin.errors import DriverCallFailed
from plugin.sim.hardware import sensors
from plugin.sim.hardware.codes import Code, NodeError, call_failed
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuState, MigSlot
from plugin.sim.watch import find, says

_HANDLE = "getting its handle"


class SimSampler:
    """Measures the GPUs of a node again and again. Belongs to one thread."""

    def __init__(self, engine: SimNode) -> None:
        self._engine = engine
        #: Busy shares in the last round by what activity is measured of; see the NVML driver's
        #: meters.
        self._busy: dict[tuple[str, int | None, str], float] = {}

    def sample(self, gpus: Iterable[Gpu]) -> Samples:
        """One round; see :meth:`plugin.driver.base.Driver.sample`."""
        now, started = time.time(), time.perf_counter()
        cards: dict[str, CardSample] = {}
        devices: dict[str, DeviceSample] = {}
        there = tuple(gpus)
        for gpu in there:
            try:
                card, on_card = self._gpu(gpu)
            except (DriverCallFailed, NodeError):
                continue
            cards[gpu.uuid] = card
            devices.update(on_card)
        keys = {(gpu.uuid, *instance) for gpu in there for instance in _instances(gpu)}
        self._busy = {key: busy for key, busy in self._busy.items() if key in keys}
        return Samples(now, time.perf_counter() - started, devices, cards)

    def close(self) -> None:
        self._busy.clear()

    def _gpu(self, gpu: Gpu) -> tuple[CardSample, dict[str, DeviceSample]]:
        state = find(self._engine, gpu.uuid)
        sensed = says(self._engine, gpu.uuid, Aspect.SENSORS, "reading its sensors")
        card = self._card(state) if sensed else CardSample()
        if gpu.error is not None:
            return card, {}
        activities = {
            gi: self._activity(state, gi, first) if sensed else Activity()
            for gi, first in _instances(gpu)
        }
        if not gpu.mig_devices:
            return card, {gpu.uuid: self._device(state, None, activities.get(None, Activity()))}
        slots = {slot.ci.uuid: slot for slot in state.devices()}
        devices = {}
        for device in gpu.mig_devices:
            try:
                slot = slots.get(device.uuid)
                code = (
                    Code.NOT_FOUND
                    if slot is None
                    else self._engine.faults.code(device.uuid, Aspect.HANDLE)
                )
                if code is not None:
                    raise call_failed(_HANDLE, code)
                devices[device.uuid] = self._device(state, slot, activities[device.gi])
            except DriverCallFailed:
                continue
        return card, devices

    def _card(self, state: GpuState) -> CardSample:
        busy, wear = self._engine.busy_share(state), state.wear
        rates = (
            (None, None) if state.mig else tuple(rate / 100 for rate in sensors.utilisation(busy))
        )
        remaps = state.card.remaps_rows
        return CardSample(
            power=sensors.power(busy) / 1000,
            temperature=float(sensors.temperature(busy)),
            sm_clock=sensors.sm_clock(busy) * 1e6,
            memory_clock=sensors.MEMORY_CLOCK * 1e6,
            energy=int(self._engine.energy(state) * 1000) / 1000,
            utilisation=rates[0],
            memory_utilisation=rates[1],
            remapped_correctable=wear.remapped_correctable if remaps else None,
            remapped_uncorrectable=wear.remapped_uncorrectable if remaps else None,
            remap_pending=wear.remap_pending if remaps else None,
            remap_failure=wear.remap_failure if remaps else None,
            ecc_corrected=wear.single_bit_ecc,
            ecc_uncorrected=wear.double_bit_ecc,
        )

    def _device(self, state: GpuState, slot: MigSlot | None, activity: Activity) -> DeviceSample:
        """A MIG device, or the whole GPU. Raises :class:`DriverCallFailed` when it answers that it
        is lost.
        """
        uuid = state.uuid if slot is None else slot.ci.uuid
        read = says(self._engine, uuid, Aspect.MEMORY, "reading its memory")
        memory = sensors.memory(state, slot, self._engine.memory_used(uuid)) if read else None
        counted = says(self._engine, uuid, Aspect.SENSORS, "reading its ECC errors")
        holders = (
            [uuid] if slot is not None else [uuid, *(found.ci.uuid for found in state.devices())]
        )
        whole = slot is None and counted
        return DeviceSample(
            memory_total=memory and memory.total,
            memory_used=memory and memory.used,
            memory_free=memory and memory.free,
            memory_reserved=memory and memory.reserved,
            processes=sum(len(self._engine.processes(holder)) for holder in holders),
            activity=activity,
            ecc_corrected=state.wear.single_bit_ecc if whole else None,
            ecc_uncorrected=state.wear.double_bit_ecc if whole else 0 if counted else None,
        )

    def _activity(self, state: GpuState, gi: int | None, first: str) -> Activity:
        if not state.card.samples_instances:
            return Activity()
        try:
            after = self._engine.busy_share(state, gi)
        except NodeError:
            return Activity()  # the GPU instance is no more
        key = state.uuid, gi, first
        before, self._busy[key] = self._busy.get(key), after
        if before is None:
            return Activity()
        names = Activity.__dataclass_fields__
        return Activity(**{name: sensors.activity(name, before, after) / 100 for name in names})


def _instances(gpu: Gpu) -> list[tuple[int | None, str]]:
    """What activity is measured of: GPU instances with their first device, or a whole GPU without
    MIG.
    """
    firsts: dict[int | None, str] = {}
    for device in gpu.mig_devices:
        firsts.setdefault(device.gi, device.uuid)
    if not firsts and not gpu.mig_enabled:
        return [(None, gpu.uuid)]
    return list(firsts.items())
