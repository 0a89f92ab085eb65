"""Sensors of a simulated card, in NVML's units, by its busy share (0..1)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from plugin.sim.hardware.gpu import GpuState, MigSlot

MEMORY_CLOCK = 1215  # MHz, whether busy or not

_MIB = 1 << 20
_RESERVED = 503316480  # bytes, as recorded on an H100

#: Percent of time with every slice busy, as during training.
_ACTIVITY = {
    "sm_active": 80.0,
    "sm_occupancy": 45.0,
    "tensor_active": 35.0,
    "dram_active": 40.0,
    "graphics_active": 90.0,
}


class Memory(NamedTuple):
    """Bytes; reserved memory is neither used nor free."""

    total: int
    used: int
    free: int
    reserved: int


def memory(gpu: GpuState, slot: MigSlot | None, used: int) -> Memory:
    """Of a GPU or a MIG device, whose processes use `used` bytes."""
    total = gpu.card.memory_bytes if slot is None else slot.gi.profile.memory_mib * _MIB
    used = min(total, used)
    reserved = min(_RESERVED, total - used)
    return Memory(total, used, total - used - reserved, reserved)


def power(busy: float) -> int:
    """Milliwatts."""
    return 62_000 + round(248_000 * busy)


def temperature(busy: float) -> int:
    """Degrees Celsius."""
    return 31 + round(27 * busy)


def sm_clock(busy: float) -> int:
    """MHz; any work wakes the whole card."""
    return 1410 if busy else 210


def utilisation(busy: float) -> tuple[int, int]:
    """Percent of time with work, and with memory accesses."""
    return (90, 40) if busy else (0, 0)


def activity(name: str, before: float, after: float) -> float:
    """Percent of the time between two samples, for a field of
    :class:`~plugin.core.inventory.samples.Activity`.
    """
    return _ACTIVITY[name] * (before + after) / 2


class EnergyMeter:
    """Adds up joules by UUID; settle before the power changes. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._settled: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def read(self, uuid: str, watts: float) -> float:
        """Joules until now, at this power since the last settlement."""
        joules, since = self._settled.get(uuid, (0.0, self._started))
        return joules + watts * (self._clock() - since)

    def settle(self, uuid: str, watts: float) -> None:
        with self._lock:
            self._settled[uuid] = (self.read(uuid, watts), self._clock())
