"""The truth of a simulated node: its GPUs and MIG instances, what is broken on it, and who hears of
it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plugin.core.health.events import DriverEvent, EventKind
from plugin.core.health.xids import CATALOGUE, Action
from plugin.core.inventory.model import Placement
from plugin.core.quote import quote
from plugin.errors import SimulationError
from plugin.sim.hardware import node_file
from plugin.sim.hardware.calls import Calls
from plugin.sim.hardware.cards import Card
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.events import EventQueue, EventQueues
from plugin.sim.hardware.faults import Faults
from plugin.sim.hardware.geometry import named_gpus, parse_fleet, parse_geometry
from plugin.sim.hardware.gpu import (
    ComputeInstance,
    GpuInstance,
    GpuState,
    Process,
    add_ci,
    add_gi,
    new_gpu,
)
from plugin.sim.hardware.placement import PlannedInstance, plan
from plugin.sim.hardware.recording import Recording
from plugin.sim.hardware.use import Use

#: Event bits that a driver of the recorded version supports.
SUPPORTED_EVENTS = 0xFF9F

#: What the driver recommends after an XID for which the catalogue says so.
_RECOVERY_ACTIONS = {Action.RESET_GPU: 1, Action.RESTART_NODE: 2}
_RECOVERY_ACTION_CHANGED = 154  # the XID that says so


@dataclass(frozen=True, slots=True)
class DriverVersions:
    """What the driver calls itself; ``cuda`` is 1000 · major + 10 · minor."""

    driver: str = "580.159.04"
    nvml: str = "13.580.159.04"
    cuda: int = 13000


class SimNode:
    """A node of GPUs that keeps the rules of real ones.

    Thread-safe. States are frozen values that are replaced, so a reader may keep what it got.
    ``generation`` rises with every change. Refusals that NVML would answer with a code are
    :class:`~plugin.sim.hardware.codes.NodeError`. GPUs are named by slot (the index, as long as
    none was removed), devices (for faults, processes) by UUID.
    """

    def __init__(
        self,
        cards: Sequence[Card],
        name: str = "sim",
        *,
        numa: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Build a node with MIG off on every card. ``numa=False`` leaves the NUMA node of every GPU
        unknown.

        ``clock`` is what its energy meters go by, in seconds.
        """
        self.name = name
        self.versions = DriverVersions()
        #: What is not as on the node that it replays, a sentence each.
        self.notes: tuple[str, ...] = ()
        self.faults = Faults()
        self.calls = Calls()
        self._lock = threading.RLock()
        self.supported_events = SUPPORTED_EVENTS
        self._half = max(1, (len(cards) + 1) // 2) if numa else None
        self._gpus: list[GpuState] = []
        self._made = 0
        self._generation = 0
        self._queues = EventQueues()
        self._use = Use(clock)
        for card in cards:
            self.add_gpu(card)

    # Reading

    @property
    def gpus(self) -> tuple[GpuState, ...]:
        """Those that are there, in NVML's order."""
        with self._lock:
            return tuple(gpu for gpu in self._gpus if gpu.present)

    @property
    def generation(self) -> int:
        return self._generation + self.faults.changes

    def gpu(self, index: int) -> GpuState:
        if not 0 <= index < len(self._gpus):
            raise NodeError(Code.INVALID_ARGUMENT, f"GPU {index} of {len(self._gpus)}")
        state = self._gpus[index]
        if not state.present:
            raise NodeError(Code.GPU_IS_LOST, f"asking GPU {index}, which was removed")
        return state

    def present(self, gpu: int) -> GpuState:
        """A GPU that answers, for it is not lost."""
        state = self.gpu(gpu)
        if state.lost:
            raise NodeError(Code.GPU_IS_LOST, f"asking GPU {gpu}")
        return state

    def processes(self, uuid: str) -> tuple[Process, ...]:
        """Processes that hold a GPU or MIG device."""
        return self._use.processes(uuid)

    def memory_used(self, uuid: str) -> int:
        """Bytes in use on a device; a GPU with MIG on counts its MIG devices."""
        with self._lock:
            holders = next((_holders(gpu) for gpu in self._gpus if gpu.uuid == uuid), (uuid,))
            return self._use.memory(holders)

    def busy_share(self, gpu: GpuState, gi: int | None = None) -> float:
        """Share, 0..1, of a GPU's or a GPU instance's compute slices that processes hold."""
        return self._use.busy_share(gpu, gi)

    def energy(self, gpu: GpuState) -> float:
        """Joules that a GPU has used since it was plugged in."""
        with self._lock:
            return self._use.energy(gpu)

    # Calls of a driver pass here

    def enter(self, gpu: GpuState | None = None) -> None:
        """What every driver call passes through: refused or blocked by a fault of the driver or a
        lost GPU.
        """
        self.faults.enter()
        if gpu is not None:
            self.present(gpu.index)

    def open_queue(self) -> EventQueue:
        """A new event queue; it hears of a GPU once that is registered. Close it with
        :meth:`close_queue`.
        """
        with self._lock:
            return self._queues.open(gpu.uuid for gpu in self._gpus if gpu.lost)

    def close_queue(self, queue: EventQueue) -> None:
        with self._lock:
            self._queues.close(queue)

    def wait_heard(self, seconds: float) -> bool:
        """Wait until all events sent so far have been taken from the queues and dealt with."""
        return all(queue.wait_heard(seconds) for queue in self._queues)

    # Slots

    def add_gpu(self, card: Card) -> GpuState:
        """Plug a new GPU, with MIG off, into a slot behind all others."""
        with self._lock:
            index = len(self._gpus)
            made = new_gpu(
                self.name, index, card, None if self._half is None else min(1, index // self._half)
            )
            self._gpus.append(made)
            self._generation += 1
            return made

    def remove_gpu(self, gpu: int) -> None:
        """Pull a GPU, lost or not, with all that is on it: who has registered for its events finds
        it lost.
        """
        with self._lock:
            state = self.gpu(gpu)
            self._forget(*_holders(state))
            self._set_lost(gpu, lost=True)
            self._gpus[gpu] = new_gpu(self.name, gpu, state.card, state.numa)
            self._update(gpu, present=False)

    def return_gpu(self, gpu: int) -> None:
        """Plug a GPU that was removed into its slot again, with MIG off."""
        with self._lock:
            if not 0 <= gpu < len(self._gpus) or self._gpus[gpu].present:
                raise NodeError(
                    Code.INVALID_ARGUMENT, f"returning GPU {gpu}, which was not removed"
                )
            self._gpus[gpu] = replace(self._gpus[gpu], present=True)
            self._set_lost(gpu, lost=False)

    def replay(self, recorded: Recording) -> None:
        """Be as a recording of a node with the same cards."""
        with self._lock:
            driver, nvml, cuda = recorded.versions
            self.versions = DriverVersions(
                driver or self.versions.driver,
                nvml or self.versions.nvml,
                cuda or self.versions.cuda,
            )
            self.notes = recorded.notes
            self._gpus = list(recorded.gpus)
            self._generation += 1
        for path in recorded.missing:
            self.faults.remove_node(path)
        for gpu in recorded.lost:
            self.lose(gpu)

    # Geometry

    def create_gi(self, gpu: int, profile: str, placement: Placement | None = None) -> GpuInstance:
        """Make a GPU instance, at the given or the first free placement. It has no compute instance
        yet.
        """
        with self._lock:
            state = self._mig_gpu(gpu)
            self._gpus[gpu], made = add_gi(state, profile, placement)
            self._mig_changed(gpu)
            return made

    def create_ci(self, gpu: int, gi: int, slices: int | None = None) -> ComputeInstance:
        """Make a compute instance of ``slices`` (by default all of the GPU instance)."""
        with self._lock:
            self._gpus[gpu], made = add_ci(self._mig_gpu(gpu), gi, slices, self._next())
            self._mig_changed(gpu)
            return made

    def destroy_ci(self, gpu: int, gi: int, ci: int) -> None:
        """Destroy a compute instance; refused while a process holds it."""
        with self._lock:
            state = self._mig_gpu(gpu)
            instance = state.instance(gi)
            doomed = next((c for c in instance.compute if c.id == ci), None)
            if doomed is None:
                raise NodeError(
                    Code.NOT_FOUND, f"GPU {gpu} has no compute instance {ci} in GPU instance {gi}"
                )
            if self.processes(doomed.uuid):
                raise NodeError(Code.IN_USE, f"destroying {doomed.uuid} on GPU {gpu}")
            left = tuple(c for c in instance.compute if c.id != ci)
            self._gpus[gpu] = state.with_instance(replace(instance, compute=left))
            self._forget(doomed.uuid)
            self._mig_changed(gpu)

    def destroy_gi(self, gpu: int, gi: int) -> None:
        """Destroy a GPU instance; refused while it has compute instances."""
        with self._lock:
            state = self._mig_gpu(gpu)
            if state.instance(gi).compute:
                raise NodeError(
                    Code.IN_USE,
                    f"destroying GPU instance {gi} on GPU {gpu}, which has compute instances",
                )
            self._gpus[gpu] = state.without_instance(gi)
            self._mig_changed(gpu)

    def set_mig_mode(self, gpu: int, *, on: bool) -> None:
        """Switch MIG mode: at once on Hopper and later, with the next :meth:`reset` on Ampere. The
        GPU must be idle.
        """
        with self._lock:
            state = self.present(gpu)
            if not state.card.mig_capable:
                raise NodeError(
                    Code.NOT_SUPPORTED, f"switching MIG mode of GPU {gpu} ({state.card.key})"
                )
            self._require_idle(state, "switching MIG mode")
            if state.card.mig_mode_needs_reset:
                self._update(gpu, mig_pending=on)
            else:
                self._switch_mig(state, on=on)
            self._mig_changed(gpu)

    def reset(self, gpu: int) -> None:
        """Reset an idle GPU: a pending MIG mode becomes current, instances, faults and the recovery
        action go.
        """
        with self._lock:
            state = self.present(gpu)
            self._require_idle(state, "resetting")
            self.faults.heal({state.uuid})
            self._switch_mig(state, on=state.mig_pending)
            wear = replace(state.wear, remap_pending=False, retirement_pending=False)
            self._update(gpu, recovery_action=0, wear=wear)
            self._mig_changed(gpu)
            if state.recovery_action:
                self._emit(gpu, EventKind.RECOVERY_ACTION)

    def set_geometry(self, gpu: int, profiles: Sequence[str]) -> None:
        """Replace all instances of a GPU whose MIG mode is on, as one change with one event.

        ``profiles`` names the wanted devices (``3g.20gb``, ``1c.3g.20gb``). Raises
        :class:`~plugin.errors.SimulationError`, changing nothing, when they cannot be placed or one
        is in use.
        """
        with self._lock:
            state = self._mig_gpu(gpu)
            planned = plan(state.card, profiles, gpu)
            self._require_idle(state, "changing the geometry")
            self._fill(gpu, planned)
            self._mig_changed(gpu)

    def configure(self, geometry: str, *, only_named: bool = False) -> None:
        """Bring the whole node to a geometry (``all-1g.5gb``, ``0=3g.20gb;1=off``), MIG modes
        included, at once.

        This is what an administrator does with resets in between; GPUs that already are as wanted
        keep their devices, and with ``only_named`` those that the geometry does not name stay as
        they are. Raises
        :class:`~plugin.errors.SimulationError`, changing nothing, when some GPU cannot be brought
        there.
        """
        with self._lock:
            gpus = self.gpus
            wanted = parse_geometry(geometry, [gpu.card for gpu in gpus])
            plans = [
                None if w is None else plan(g.card, w, g.index)
                for g, w in zip(gpus, wanted, strict=True)
            ]
            named = named_gpus(geometry, len(gpus)) if only_named else range(len(gpus))
            pairs = enumerate(zip(gpus, plans, strict=True))
            changing = [(g, p) for n, (g, p) in pairs if n in named and not _is_as_planned(g, p)]
            for gpu, _ in changing:
                self._require_idle(self.present(gpu.index), "changing the geometry")
            for gpu, planned in changing:
                self._switch_mig(gpu, on=planned is not None)
                self._fill(gpu.index, planned or ())
                self._mig_changed(gpu.index)

    # Use, faults and events

    def use(self, uuid: str, pid: int, memory: int = 0) -> None:
        """A process starts to hold a device, with ``memory`` bytes on it; the same pid again
        replaces itself.
        """
        with self._lock:
            self._use.settle(self._gpus)
            self._use.hold(uuid, Process(pid, memory))
            self._generation += 1

    def release(self, uuid: str, pid: int | None = None) -> None:
        """A process, or every process, lets go of a device."""
        with self._lock:
            self._use.settle(self._gpus)
            self._use.let_go(uuid, pid)
            self._generation += 1

    def lose(self, gpu: int) -> None:
        """The GPU falls off the bus: every call for it, and every wait for its events, answers GPU
        is lost.
        """
        self._set_lost(gpu, lost=True)

    def restore(self, gpu: int) -> None:
        """A lost GPU is back, as it was."""
        self._set_lost(gpu, lost=False)

    def set_recovery_action(self, gpu: int, action: int) -> None:
        """Set what the driver recommends for a GPU, and say so (0 none, 1 reset, 2 reboot, …)."""
        self._update(gpu, recovery_action=action)
        self._emit(gpu, EventKind.RECOVERY_ACTION)

    def set_wear(self, gpu: int, **values: Any) -> None:
        """Set fields of :class:`~plugin.sim.hardware.gpu.Wear`, without an event."""
        with self._lock:
            self._update(gpu, wear=replace(self.gpu(gpu).wear, **values))

    def xid(self, gpu: int, xid: int, gi: int | None = None, ci: int | None = None) -> None:
        """Send an XID event for a GPU, a GPU instance or a compute instance."""
        self._emit(gpu, EventKind.XID, gi, ci, xid)

    def fault(self, gpu: int, xid: int, gi: int | None = None, ci: int | None = None) -> None:
        """What a driver does on a fault: an XID event and, where the whole GPU needs a reset, or
        the node a restart, that recovery action with XID 154 and the event of its own. An action
        that is as high already stays.
        """
        with self._lock:
            self.xid(gpu, xid, gi, ci)
            known = CATALOGUE.get(xid)
            action = (
                _RECOVERY_ACTIONS.get(known.action, 0) if known is not None and gi is None else 0
            )
            if action > self.gpu(gpu).recovery_action:
                self._update(gpu, recovery_action=action)
                self.xid(gpu, _RECOVERY_ACTION_CHANGED)
                self._emit(gpu, EventKind.RECOVERY_ACTION)

    def ecc(self, gpu: int, *, double_bit: bool = False) -> None:
        """Count an ECC error and send its event."""
        with self._lock:
            wear = self.gpu(gpu).wear
            if double_bit:
                self.set_wear(gpu, double_bit_ecc=wear.double_bit_ecc + 1)
            else:
                self.set_wear(gpu, single_bit_ecc=wear.single_bit_ecc + 1)
        self._emit(gpu, EventKind.DOUBLE_BIT_ECC if double_bit else EventKind.SINGLE_BIT_ECC)

    def send(self, gpu: int, kind: EventKind, data: int = 0) -> None:
        """Send an event that changes nothing by itself, such as GPU unavailable."""
        self._emit(gpu, kind, data=data)

    # Inner parts; the lock is held

    def _mig_gpu(self, gpu: int) -> GpuState:
        state = self.present(gpu)
        if not state.mig:
            raise NodeError(
                Code.NOT_SUPPORTED, f"handling instances of GPU {gpu}, whose MIG mode is off"
            )
        return state

    def _require_idle(self, state: GpuState, doing: str) -> None:
        for uuid in _holders(state):
            if self.processes(uuid):
                pids = ", ".join(str(process.pid) for process in self.processes(uuid))
                raise NodeError(
                    Code.IN_USE, f"{doing} of GPU {state.index} while process {pids} holds {uuid}"
                )

    def _fill(self, gpu: int, planned: Sequence[PlannedInstance]) -> None:
        self._clear(self._gpus[gpu])
        for wanted in planned:
            self._gpus[gpu], made = add_gi(self._gpus[gpu], wanted.profile.name, wanted.placement)
            for slices in wanted.compute:
                self._gpus[gpu], _ = add_ci(self._gpus[gpu], made.id, slices, self._next())

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _clear(self, state: GpuState) -> None:
        self._forget(*(slot.ci.uuid for slot in state.devices()))
        self._gpus[state.index] = replace(state, instances=())

    def _forget(self, *uuids: str) -> None:
        self._use.settle(self._gpus)
        for uuid in uuids:
            self._use.let_go(uuid)
        self.faults.heal(uuids)

    def _switch_mig(self, state: GpuState, *, on: bool) -> None:
        self._clear(state)
        self._update(state.index, mig=on, mig_pending=on)

    def _set_lost(self, gpu: int, *, lost: bool) -> None:
        with self._lock:
            self._update(gpu, lost=lost)
            self._queues.mark_lost(self._gpus[gpu].uuid, lost=lost)

    def _update(self, gpu: int, **values: Any) -> None:
        with self._lock:
            self._gpus[gpu] = replace(self.gpu(gpu), **values)
            self._generation += 1

    def _mig_changed(self, gpu: int) -> None:
        self._generation += 1
        self._emit(gpu, EventKind.MIG_CONFIG)

    def _emit(
        self, gpu: int, kind: EventKind, gi: int | None = None, ci: int | None = None, data: int = 0
    ) -> None:
        with self._lock:
            self._queues.deliver(DriverEvent(kind, self.gpu(gpu).uuid, gi, ci, data))


def _holders(state: GpuState) -> tuple[str, ...]:
    """UUIDs of all on a GPU that a process may hold."""
    return (state.uuid, *(slot.ci.uuid for slot in state.devices()))


def _is_as_planned(gpu: GpuState, planned: Sequence[PlannedInstance] | None) -> bool:
    if planned is None or not gpu.mig or not gpu.mig_pending:
        return planned is None and not gpu.mig and not gpu.mig_pending
    there = [
        (i.profile.name, i.placement, tuple(c.slices for c in i.compute)) for i in gpu.instances
    ]
    wanted = [(p.profile.name, p.placement, p.compute) for p in planned]
    return sorted(there) == sorted(wanted)


def parse_node(text: str, clock: Callable[[], float] = time.monotonic) -> SimNode:
    """Build a node from ``NODE[:GEOMETRY]``, such as ``p4d.24xlarge:all-1g.5gb``, or from
    ``FILE[:GEOMETRY]``; ``clock`` is that of its meters.

    Raises :class:`~plugin.errors.SimulationError` naming the choices, in one line.
    """
    name, _, geometry = (part.strip() for part in text.partition(":"))
    if not name:
        raise SimulationError(
            f"no node in {quote(text)}; write NODE[:GEOMETRY], such as p4d.24xlarge:all-1g.5gb"
        )
    if not node_file.names_file(name):
        node = SimNode(parse_fleet(name), name, clock=clock)
        node.configure(geometry)
        return node
    described = node_file.read(name)
    node = SimNode(described.cards, Path(name).stem, clock=clock)
    if described.recorded is not None:
        node.replay(described.recorded)
    if geometry or described.recorded is None:
        node.configure(geometry)
    return node
