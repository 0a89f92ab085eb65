"""The GPUs of a simulated node by slot, with their processes, faults and events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from plugin.core.health.events import DriverEvent, EventKind
from plugin.sim.hardware.cards import Card
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.events import EventQueues
from plugin.sim.hardware.faults import Faults
from plugin.sim.hardware.gpu import GpuState, add_ci, add_gi, new_gpu
from plugin.sim.hardware.placement import PlannedInstance
from plugin.sim.hardware.use import Use


class Slots:
    """Keeps a frozen state per slot. Callers hold ``lock`` during compound changes."""

    def __init__(self, node: str, half: int | None, faults: Faults, use: Use) -> None:
        """`node` is the node's name; from slot `half` on, GPUs are on the second NUMA node. Without
        `half`, NUMA nodes are unknown.
        """
        self.lock = threading.RLock()
        self.queues = EventQueues()
        self.use = use
        self.changes = 0
        self._node = node
        self._half = half
        self._faults = faults
        self._gpus: list[GpuState] = []
        self._created = 0

    @property
    def all(self) -> tuple[GpuState, ...]:
        """Including slots whose GPU was removed."""
        return tuple(self._gpus)

    def __getitem__(self, gpu: int) -> GpuState:
        if not 0 <= gpu < len(self._gpus):
            raise NodeError(Code.INVALID_ARGUMENT, f"GPU {gpu} of {len(self._gpus)}")
        state = self._gpus[gpu]
        if not state.present:
            raise NodeError(Code.GPU_IS_LOST, f"asking GPU {gpu}, which was removed")
        return state

    def answering(self, gpu: int) -> GpuState:
        """A GPU that is present and not lost."""
        state = self[gpu]
        if state.lost:
            raise NodeError(Code.GPU_IS_LOST, f"asking GPU {gpu}")
        return state

    def with_mig(self, gpu: int) -> GpuState:
        state = self.answering(gpu)
        if not state.mig:
            raise NodeError(
                Code.NOT_SUPPORTED, f"handling instances of GPU {gpu}, whose MIG mode is off"
            )
        return state

    def require_idle(self, state: GpuState, doing: str) -> None:
        for uuid in state.holdable:
            if processes := self.use.processes(uuid):
                pids = ", ".join(str(process.pid) for process in processes)
                raise NodeError(
                    Code.IN_USE, f"{doing} of GPU {state.index} while process {pids} holds {uuid}"
                )

    def is_idle(self, state: GpuState) -> bool:
        return not any(map(self.use.processes, state.holdable))

    def next_instance(self) -> int:
        """The count for the UUID of a new compute instance."""
        self._created += 1
        return self._created

    # Changes

    def replace(self, gpus: Sequence[GpuState]) -> None:
        """Replace the state of every slot."""
        with self.lock:
            self._gpus = list(gpus)
            self.changes += 1

    def add(self, card: Card) -> GpuState:
        with self.lock:
            index = len(self._gpus)
            numa = None if self._half is None else min(1, index // self._half)
            self._gpus.append(new_gpu(self._node, index, card, numa))
            self.changes += 1
            return self._gpus[index]

    def remove(self, gpu: int) -> None:
        with self.lock:
            state = self[gpu]
            self.forget(*state.holdable)
            self.set_lost(gpu, lost=True)
            self._gpus[gpu] = new_gpu(self._node, gpu, state.card, state.numa)
            self.update(gpu, present=False)

    def put_back(self, gpu: int) -> None:
        with self.lock:
            if not 0 <= gpu < len(self._gpus) or self._gpus[gpu].present:
                raise NodeError(
                    Code.INVALID_ARGUMENT, f"returning GPU {gpu}, which was not removed"
                )
            self._gpus[gpu] = replace(self._gpus[gpu], present=True)
            self.set_lost(gpu, lost=False)

    def update(self, gpu: int, **values: Any) -> None:
        with self.lock:
            self._gpus[gpu] = replace(self[gpu], **values)
            self.changes += 1

    def set_lost(self, gpu: int, *, lost: bool) -> None:
        with self.lock:
            self.update(gpu, lost=lost)
            self.queues.mark_lost(self._gpus[gpu].uuid, lost=lost)

    def forget(self, *uuids: str) -> None:
        """Remove the processes and faults of devices that are about to disappear."""
        self.use.settle(self._gpus)
        for uuid in uuids:
            self.use.release(uuid)
        self._faults.heal(uuids)

    def switch_mig(self, gpu: int, *, on: bool) -> None:
        """Remove all instances and set MIG mode."""
        self._clear(gpu)
        self.update(gpu, mig=on, mig_pending=on)

    def fill(self, gpu: int, planned: Sequence[PlannedInstance]) -> None:
        """Replace all instances."""
        self._clear(gpu)
        for wanted in planned:
            state, created = add_gi(self._gpus[gpu], wanted.profile.name, wanted.placement)
            for slices in wanted.compute:
                state, _ = add_ci(state, created.id, slices, self.next_instance())
            self._gpus[gpu] = state

    def store(self, state: GpuState) -> None:
        """Replace a GPU's state after a change of its instances or MIG mode, with an event."""
        self._gpus[state.index] = state
        self.mig_changed(state.index)

    def mig_changed(self, gpu: int) -> None:
        self.changes += 1
        self.emit(gpu, EventKind.MIG_CONFIG)

    def emit(
        self, gpu: int, kind: EventKind, gi: int | None = None, ci: int | None = None, data: int = 0
    ) -> None:
        with self.lock:
            self.queues.deliver(DriverEvent(kind, self[gpu].uuid, gi, ci, data))

    def run(self, change: Callable[[Use], None]) -> None:
        """Change the processes."""
        with self.lock:
            self.use.settle(self._gpus)
            change(self.use)
            self.changes += 1

    def _clear(self, gpu: int) -> None:
        state = self._gpus[gpu]
        self.forget(*(slot.ci.uuid for slot in state.devices()))
        self._gpus[gpu] = replace(state, instances=())
