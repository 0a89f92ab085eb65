"""Processes on a simulated node, with the memory, slices and energy that they use."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from plugin.sim.hardware.gpu import GpuState, Process, Work
from plugin.sim.hardware.sensors import EnergyMeter, power


class Use:
    """Processes by the UUID of their device. The owner locks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._processes: dict[str, tuple[Process, ...]] = {}
        self._energy = EnergyMeter(clock)

    def processes(self, uuid: str) -> tuple[Process, ...]:
        return self._processes.get(uuid, ())

    def hold(self, uuid: str, process: Process) -> None:
        """Replaces a process of the same pid."""
        others = (p for p in self.processes(uuid) if p.pid != process.pid)
        self._processes[uuid] = tuple(sorted((*others, process), key=lambda p: p.pid))

    def release(self, uuid: str, pid: int | None = None) -> None:
        """Release one process, or all."""
        self._processes[uuid] = tuple(
            p for p in self.processes(uuid) if pid is not None and p.pid != pid
        )

    def memory(self, uuids: Iterable[str]) -> int:
        """Bytes in use on all of these."""
        return sum(process.memory for uuid in uuids for process in self.processes(uuid))

    def busy_share(self, gpu: GpuState, gi: int | None = None) -> float:
        """Share, 0..1, of a GPU's or a GPU instance's compute slices that processes hold."""
        if gi is None and self._works(gpu.uuid):
            return 1.0
        instances = gpu.instances if gi is None else (gpu.instance(gi),)
        busy = sum(
            ci.slices for instance in instances for ci in instance.compute if self._works(ci.uuid)
        )
        slices = gpu.card.compute_slices if gi is None else instances[0].profile.slices
        return min(1.0, busy / slices) if busy else 0.0

    def _works(self, uuid: str) -> bool:
        return any(process.work is not Work.WATCH for process in self.processes(uuid))

    def energy(self, gpu: GpuState) -> float:
        """Joules that a GPU has used since the node was made."""
        return self._energy.read(gpu.uuid, power(self.busy_share(gpu)) / 1000)

    def settle(self, gpus: Iterable[GpuState]) -> None:
        """Count the energy used until now, before what runs changes."""
        for gpu in gpus:
            self._energy.settle(gpu.uuid, power(self.busy_share(gpu)) / 1000)
