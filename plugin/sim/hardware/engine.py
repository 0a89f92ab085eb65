"""The simulated node: its GPUs, MIG instances, faults and events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.health.events import EventKind
from plugin.core.health.xids import CATALOGUE, Action
from plugin.core.inventory.model import Placement
from plugin.core.quote import quote
from plugin.errors import SimulationError
from plugin.sim.hardware.calls import Calls
from plugin.sim.hardware.cards import Card
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.events import EventQueue
from plugin.sim.hardware.faults import Faults
from plugin.sim.hardware.geometry import named_gpus, parse_fleet, parse_geometry
from plugin.sim.hardware.gpu import (
    ComputeInstance,
    GpuInstance,
    GpuState,
    Process,
    Work,
    add_ci,
    add_gi,
)
from plugin.sim.hardware.placement import plan
from plugin.sim.hardware.slots import Slots
from plugin.sim.hardware.use import Use

if TYPE_CHECKING:
    from plugin.sim.hardware.recording import Recording

#: Event bits of a driver of the recorded version.
SUPPORTED_EVENTS = 0xFF9F

#: The driver's recommendation after an XID, by the catalogue's action.
_RECOVERY_ACTIONS = {Action.RESET_GPU: 1, Action.RESTART_NODE: 2}
_RECOVERY_ACTION_CHANGED = 154  # the XID for a new recommendation


class DriverVersions(Struct, frozen=True):
    """``cuda`` is 1000 · major + 10 · minor."""

    driver: str = "580.159.04"
    nvml: str = "13.580.159.04"
    cuda: int = 13000


class SimNode:
    """A node of GPUs with the rules of real ones.

    Thread-safe. States are frozen values, so readers may keep them. ``generation`` rises with every
    change. Refusals with an NVML code are :class:`~plugin.sim.hardware.codes.NodeError`. GPUs are
    named by slot (NVML's index, until one is removed), devices by UUID.
    """

    def __init__(
        self,
        cards: Sequence[Card],
        name: str = "sim",
        *,
        numa: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """MIG is off on every card. ``numa=False`` leaves NUMA nodes unknown; ``clock``, in
        seconds, drives the energy meters.
        """
        self.name = name
        self.versions = DriverVersions()
        #: Differences from the recorded node that it replays, a sentence each.
        self.notes: tuple[str, ...] = ()
        self.faults = Faults()
        self.calls = Calls()
        #: Initialisations of libraries over it that were not shut down.
        self.sessions = 0
        self.supported_events = SUPPORTED_EVENTS
        half = max(1, (len(cards) + 1) // 2) if numa else None
        self._slots = Slots(name, half, self.faults, Use(clock))
        for card in cards:
            self.add_gpu(card)

    # Reading

    @property
    def gpus(self) -> tuple[GpuState, ...]:
        """Present GPUs, in NVML's order."""
        with self._slots.lock:
            return tuple(gpu for gpu in self._slots.all if gpu.present)

    @property
    def generation(self) -> int:
        return self._slots.changes + self.faults.changes

    def gpu(self, index: int) -> GpuState:
        return self._slots[index]

    def present(self, gpu: int) -> GpuState:
        """A GPU that is not lost."""
        return self._slots.answering(gpu)

    def processes(self, uuid: str) -> tuple[Process, ...]:
        """Processes that hold a GPU or MIG device."""
        return self._slots.use.processes(uuid)

    def memory_used(self, uuid: str) -> int:
        """Bytes in use on a device; a GPU's include its MIG devices'."""
        with self._slots.lock:
            holdable = next((gpu.holdable for gpu in self._slots.all if gpu.uuid == uuid), (uuid,))
            return self._slots.use.memory(holdable)

    def busy_share(self, gpu: GpuState, gi: int | None = None) -> float:
        """Share, 0..1, of a GPU's or a GPU instance's compute slices that processes hold."""
        return self._slots.use.busy_share(gpu, gi)

    def energy(self, gpu: GpuState) -> float:
        """Joules that a GPU has used since it was plugged in."""
        with self._slots.lock:
            return self._slots.use.energy(gpu)

    # Driver calls

    def enter(self, gpu: GpuState | None = None) -> None:
        """Every driver call passes here, and fails or blocks on a driver fault or a lost GPU."""
        self.faults.enter()
        if gpu is not None:
            self.present(gpu.index)

    def open_queue(self) -> EventQueue:
        """An event queue without registered GPUs. Close it with :meth:`close_queue`."""
        with self._slots.lock:
            return self._slots.queues.open(gpu.uuid for gpu in self._slots.all if gpu.lost)

    def close_queue(self, queue: EventQueue) -> None:
        with self._slots.lock:
            self._slots.queues.close(queue)

    def wait_heard(self, seconds: float) -> bool:
        """Wait until all events sent so far have been taken from the queues and processed."""
        return all(queue.wait_heard(seconds) for queue in self._slots.queues)

    # Slots

    def add_gpu(self, card: Card) -> GpuState:
        """Plug a new GPU, with MIG off, into the next slot."""
        return self._slots.add(card)

    def remove_gpu(self, gpu: int) -> None:
        """Unplug a GPU with everything on it; its open event queues report it as lost."""
        self._slots.remove(gpu)

    def return_gpu(self, gpu: int) -> None:
        """Plug a removed GPU into its slot again, with MIG off."""
        self._slots.put_back(gpu)

    def replay(self, recorded: Recording) -> None:
        """Become the node of a recording with the same cards."""
        driver, nvml, cuda = recorded.versions
        self.versions = DriverVersions(
            driver or self.versions.driver,
            nvml or self.versions.nvml,
            cuda or self.versions.cuda,
        )
        self.notes = recorded.notes
        self._slots.replace(recorded.gpus)
        for path in recorded.missing:
            self.faults.remove_node(path)
        for gpu in recorded.lost:
            self.lose(gpu)

    # Geometry

    def create_gi(self, gpu: int, profile: str, placement: Placement | None = None) -> GpuInstance:
        """Create an empty GPU instance, at the given or the first free placement."""
        with self._slots.lock:
            state, created = add_gi(self._slots.with_mig(gpu), profile, placement)
            self._slots.store(state)
            return created

    def create_ci(
        self, gpu: int, gi: int, slices: int | None = None, placement: Placement | None = None
    ) -> ComputeInstance:
        """Create a compute instance of ``slices`` (by default the whole GPU instance), at the given
        or the first free placement.
        """
        with self._slots.lock:
            state = self._slots.with_mig(gpu)
            state, created = add_ci(state, gi, slices, self._slots.next_instance(), placement)
            self._slots.store(state)
            return created

    def destroy_ci(self, gpu: int, gi: int, ci: int) -> None:
        """Destroy a compute instance; refused while a process holds it."""
        with self._slots.lock:
            state = self._slots.with_mig(gpu)
            instance = state.instance(gi)
            doomed = next((c for c in instance.compute if c.id == ci), None)
            if doomed is None:
                raise NodeError(
                    Code.NOT_FOUND, f"GPU {gpu} has no compute instance {ci} in GPU instance {gi}"
                )
            if self.processes(doomed.uuid):
                raise NodeError(Code.IN_USE, f"destroying {doomed.uuid} on GPU {gpu}")
            left = tuple(c for c in instance.compute if c.id != ci)
            self._slots.forget(doomed.uuid)
            self._slots.store(state.with_instance(replace(instance, compute=left)))

    def destroy_gi(self, gpu: int, gi: int) -> None:
        """Destroy a GPU instance; refused while it has compute instances."""
        with self._slots.lock:
            state = self._slots.with_mig(gpu)
            if state.instance(gi).compute:
                raise NodeError(
                    Code.IN_USE,
                    f"destroying GPU instance {gi} on GPU {gpu}, which has compute instances",
                )
            self._slots.store(state.without_instance(gi))

    def set_mig_mode(self, gpu: int, *, on: bool) -> Code:
        """Switch an idle GPU's MIG mode: at once on Hopper and later, with :meth:`reset` on Ampere.

        Returns why a switch is still pending: on Ampere the driver would reset the GPU by itself
        were it idle and outside of a virtual machine, which this one is not.
        """
        with self._slots.lock:
            state = self.present(gpu)
            if not state.card.mig_capable:
                raise NodeError(
                    Code.NOT_SUPPORTED, f"switching MIG mode of GPU {gpu} ({state.card.key})"
                )
            if on is state.mig or state.card.mig_mode_needs_reset:
                self._slots.update(gpu, mig_pending=on)
            else:
                self._slots.require_idle(state, "switching MIG mode")
                self._slots.switch_mig(gpu, on=on)
            self._slots.mig_changed(gpu)
            if self.gpu(gpu).mig is on:
                return Code.SUCCESS
            return Code.NOT_SUPPORTED if self._slots.is_idle(state) else Code.IN_USE

    def reset(self, gpu: int) -> None:
        """Reset an idle GPU: a pending MIG mode takes effect; instances, faults and the recovery
        action end.
        """
        with self._slots.lock:
            state = self.present(gpu)
            self._slots.require_idle(state, "resetting")
            self.faults.heal({state.uuid})
            self._slots.switch_mig(gpu, on=state.mig_pending)
            wear = replace(state.wear, remap_pending=False, retirement_pending=False)
            self._slots.update(gpu, recovery_action=0, wear=wear)
            self._slots.mig_changed(gpu)
            if state.recovery_action:
                self._slots.emit(gpu, EventKind.RECOVERY_ACTION)

    def set_geometry(self, gpu: int, profiles: Sequence[str]) -> None:
        """Replace all instances of a GPU with MIG mode on, with one event.

        ``profiles`` names the devices (``3g.20gb``, ``1c.3g.20gb``). Raises
        :class:`~plugin.errors.SimulationError`, changing nothing, if there is no placement or a
        device is in use.
        """
        with self._slots.lock:
            state = self._slots.with_mig(gpu)
            planned = plan(state.card, profiles, gpu)
            self._slots.require_idle(state, "changing the geometry")
            self._slots.fill(gpu, planned)
            self._slots.mig_changed(gpu)

    def configure(self, geometry: str, *, only_named: bool = False) -> None:
        """Bring the node to a geometry (``all-1g.5gb``, ``0=3g.20gb;1=off``) with its MIG modes,
        including any resets.

        GPUs that already match keep their devices; so do, with ``only_named``, GPUs that the
        geometry does not name. Raises :class:`~plugin.errors.SimulationError`, changing nothing, if
        it is impossible for some GPU.
        """
        with self._slots.lock:
            gpus = self.gpus
            wanted = parse_geometry(geometry, [gpu.card for gpu in gpus])
            plans = [
                None if w is None else plan(g.card, w, g.index)
                for g, w in zip(gpus, wanted, strict=True)
            ]
            named = named_gpus(geometry, len(gpus)) if only_named else range(len(gpus))
            pairs = enumerate(zip(gpus, plans, strict=True))
            changing = [(g, p) for n, (g, p) in pairs if n in named and not g.matches(p)]
            for gpu, _ in changing:
                self._slots.require_idle(self.present(gpu.index), "changing the geometry")
            for gpu, planned in changing:
                self._slots.switch_mig(gpu.index, on=planned is not None)
                self._slots.fill(gpu.index, planned or ())
                self._slots.mig_changed(gpu.index)

    # Processes

    def use(self, uuid: str, pid: int, memory: int = 0, work: Work = Work.COMPUTE) -> None:
        """Let a process hold a device with ``memory`` bytes; replaces the same pid."""
        self._slots.run(lambda use: use.hold(uuid, Process(pid, memory, work)))

    def release(self, uuid: str, pid: int | None = None) -> None:
        """Let one process, or all, release a device."""
        self._slots.run(lambda use: use.release(uuid, pid))

    # Faults and events

    def lose(self, gpu: int) -> None:
        """Drop a GPU off the bus: its calls and event queues fail with GPU is lost."""
        self._slots.set_lost(gpu, lost=True)

    def restore(self, gpu: int) -> None:
        """Bring a lost GPU back, unchanged."""
        self._slots.set_lost(gpu, lost=False)

    def set_recovery_action(self, gpu: int, action: int) -> None:
        """Set the driver's recommendation (0 none, 1 reset, 2 reboot, …), with its event."""
        self._slots.update(gpu, recovery_action=action)
        self._slots.emit(gpu, EventKind.RECOVERY_ACTION)

    def set_wear(self, gpu: int, **values: Any) -> None:
        """Set fields of :class:`~plugin.sim.hardware.gpu.Wear`, without an event."""
        with self._slots.lock:
            self._slots.update(gpu, wear=replace(self.gpu(gpu).wear, **values))

    def xid(self, gpu: int, xid: int, gi: int | None = None, ci: int | None = None) -> None:
        """Send an XID event for a GPU, a GPU instance or a compute instance."""
        self._slots.emit(gpu, EventKind.XID, gi, ci, xid)

    def fault(self, gpu: int, xid: int, gi: int | None = None, ci: int | None = None) -> None:
        """Act as the driver does on a fault: send the XID and, if the GPU needs a reset or the node
        a restart, raise the recovery action, with XID 154 and its event.
        """
        with self._slots.lock:
            self.xid(gpu, xid, gi, ci)
            known = CATALOGUE.get(xid)
            action = (
                _RECOVERY_ACTIONS.get(known.action, 0) if known is not None and gi is None else 0
            )
            if action > self.gpu(gpu).recovery_action:
                self._slots.update(gpu, recovery_action=action)
                self.xid(gpu, _RECOVERY_ACTION_CHANGED)
                self._slots.emit(gpu, EventKind.RECOVERY_ACTION)

    def ecc(self, gpu: int, *, double_bit: bool = False) -> None:
        """Count an ECC error and send its event."""
        with self._slots.lock:
            wear = self.gpu(gpu).wear
            if double_bit:
                self.set_wear(gpu, double_bit_ecc=wear.double_bit_ecc + 1)
            else:
                self.set_wear(gpu, single_bit_ecc=wear.single_bit_ecc + 1)
        self._slots.emit(gpu, EventKind.DOUBLE_BIT_ECC if double_bit else EventKind.SINGLE_BIT_ECC)

    def send(self, gpu: int, kind: EventKind, data: int = 0) -> None:
        """Send an event without a change of state, such as GPU unavailable."""
        self._slots.emit(gpu, kind, data=data)


def parse_node(text: str, clock: Callable[[], float] = time.monotonic) -> SimNode:
    """Build a node from ``NODE[:GEOMETRY]``, such as ``p4d.24xlarge:all-1g.5gb``, or from
    ``FILE[:GEOMETRY]``; ``clock`` is as for :class:`SimNode`.

    Raises :class:`~plugin.errors.SimulationError` with the choices, in one line.
    """
    name, _, geometry = (part.strip() for part in text.partition(":"))
    if not name:
        raise SimulationError(
            f"no node in {quote(text)}; write NODE[:GEOMETRY], such as p4d.24xlarge:all-1g.5gb"
        )
    if not _names_file(name):
        node = SimNode(parse_fleet(name), name, clock=clock)
        node.configure(geometry)
        return node
    from plugin.sim.hardware import node_file  # noqa: PLC0415 — few simulations have a file

    described = node_file.read(name)
    node = SimNode(described.cards, Path(name).stem, clock=clock)
    if described.recorded is not None:
        node.replay(described.recorded)
    if geometry or described.recorded is None:
        node.configure(geometry)
    return node


def _names_file(node: str) -> bool:
    """No node or card has such a name."""
    return "/" in node or node.endswith(".json")
