"""The narrow protocol between the plugin and a GPU driver, real or simulated.

Calls block and may hang: they belong into the driver's own worker thread, never on the event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.inventory.model import Gpu, GpuInstance, Inventory, MigMode, Placement
from plugin.driver.hangs import Hangs

if TYPE_CHECKING:  # a start needs none of these
    from plugin.core.inventory.geometry import Client, ComputeInstance, ProfileOffer
    from plugin.core.inventory.samples import Samples

__all__ = ["NO_XID_EVENTS", "Driver", "DriverEvent", "EventKind", "EventSource", "Probe"]

#: Why a GPU without XID events cannot be watched, in the words of every driver.
NO_XID_EVENTS: Final = "the card or its driver reports no XID events, so its faults cannot be seen"


class EventSource(Protocol):
    """Events of the GPUs it was made for, from then on. Belongs to one thread of its own, except
    for ``close``.
    """

    @property
    def failures(self) -> Mapping[str, str]:
        """GPU UUID → why its events cannot be watched."""

    @property
    def unsupported(self) -> Collection[str]:
        """Those among them that have no such events: trying again would change nothing."""

    def wait(self, seconds: float) -> DriverEvent | None:
        """The next event, or ``None`` when there was none for `seconds`.

        Raises :class:`~plugin.errors.DriverCallFailed` when waiting failed, for instance because a
        GPU was lost.
        """

    def close(self) -> None:
        """Free it; never raises. Not while another thread is in :meth:`wait`."""


class Partitioning(Protocol):
    """Reading and changing what instances a GPU has.

    Every verb is about one GPU, named by UUID, and raises for whatever keeps it from its answer:
    :class:`~plugin.errors.DriverUnavailable` (closed, or lost as a whole),
    :class:`~plugin.errors.DriverStale` (GPUs came or went: open again), or a kind of
    :class:`~plugin.errors.DriverCallFailed`, among them :class:`~plugin.errors.GpuLost`,
    :class:`~plugin.errors.GpuHangs` (not asked), :class:`~plugin.errors.NoPermission` and
    :class:`~plugin.errors.NotSupported`.

    Those that change something make one change each, and must never be repeated blindly. They are
    run by :meth:`~plugin.driver.worker.DriverWorker.change`, never by its ``call``, which runs an
    interrupted job again. :class:`~plugin.errors.OutcomeUnknown` says that the change may have been
    made, or may yet be. After any other error it was not, unless the GPU was lost over it. The
    truth is always in the next scan.
    """

    def profiles(self, gpu_uuid: str) -> tuple[ProfileOffer, ...]:
        """Every GPU instance profile that the GPU has and that has a name, by profile id.

        All or none: a plan must not rest on half of them. The same with MIG off (recorded on an
        H100 and an H200); empty for a card without MIG.
        """

    def look(self, gpu_uuid: str) -> Gpu:
        """Read one GPU with everything on it, as a scan does; what cannot be read is part of the
        answer.
        """

    def remaining(self, gpu_uuid: str, profile_id: int) -> int:
        """How many more GPU instances of a profile fit beside those that are there.

        With MIG off, of an empty GPU (recorded on an H100 and an H200).
        """

    def create_gpu_instance(
        self, gpu_uuid: str, profile_id: int, placement: Placement
    ) -> GpuInstance:
        """Make a GPU instance, without compute instances, at one place (in memory slices).

        Raises :class:`~plugin.errors.InsufficientResources` where something is in its place or the
        GPU has no more of its engines, :class:`~plugin.errors.InvalidPlacement` where the card has
        no such place, :class:`~plugin.errors.NotSupported` with MIG off or for an unknown profile,
        and :class:`~plugin.errors.ResetNeeded` while a switch of MIG mode is pending. The driver
        chooses the id, which an earlier instance may have had.
        """

    def create_compute_instance(
        self, gpu_uuid: str, gi: int, slices: int, placement: Placement | None = None
    ) -> ComputeInstance:
        """Make a compute instance in a GPU instance; with all of its slices, that is a plain
        device such as ``3g.20gb``.

        `placement` counts compute slices within the GPU instance; without it, the driver takes the
        first that is free. Device nodes that the device needs and that are not there are made, if
        that can be done here. Raises :class:`~plugin.errors.NoSuchInstance`,
        :class:`~plugin.errors.InsufficientResources`, :class:`~plugin.errors.InvalidPlacement`, or
        :class:`~plugin.errors.NotSupported` where the GPU instance has no compute instance of that
        size.
        """

    def destroy_compute_instance(self, gpu_uuid: str, gi: int, ci: int) -> None:
        """Destroy a compute instance, and with it the MIG device.

        Raises :class:`~plugin.errors.DeviceInUse` while a process holds it, and
        :class:`~plugin.errors.NoSuchInstance`.
        """

    def destroy_gpu_instance(self, gpu_uuid: str, gi: int) -> None:
        """Destroy a GPU instance that has no compute instances.

        Raises :class:`~plugin.errors.DeviceInUse` where it has some, and
        :class:`~plugin.errors.NoSuchInstance`.
        """

    def set_mig_mode(self, gpu_uuid: str, *, on: bool) -> MigMode:
        """Switch MIG mode; returns the mode that the driver has then.

        Where ``current`` is still the old mode, the GPU must be reset, or the node restarted, for
        it to become ``pending``: as a rule on Ampere in a virtual machine. Setting the old mode
        again gives a pending switch up. Switching to the mode that the GPU has changes nothing.

        Raises :class:`~plugin.errors.DeviceInUse` while any client holds the GPU, be it a process
        that :meth:`processes` cannot name, such as a monitoring agent. On Ampere the switch is
        pending then. Resetting the GPU, as this may, can take many seconds.
        """

    def processes(self, uuid: str) -> tuple[Client, ...]:
        """Processes with a context on a GPU, those on its MIG devices included, or on a MIG device,
        by process id.

        The driver names only processes of our own PID namespace: without the host's, an empty
        answer proves nothing. Nor does it name clients without a context (monitoring agents).
        """


class Driver(Partitioning, Protocol):
    """What the plugin needs from a driver.

    Only an open driver answers. Before :meth:`open`, and after :meth:`close`, scanning and watching
    raise :class:`~plugin.errors.DriverUnavailable`, a probe carries that as its error, and a round
    of sampling is empty.

    A call may hang. Its thread is left behind then, and the call is noted in :attr:`hangs`; the
    same job, run again in another thread, leaves out the GPU that the call was about, with that as
    its error.
    """

    @property
    def hangs(self) -> Hangs:
        """Calls that have not returned, by which GPUs are left alone."""

    def open(self) -> None:
        """Initialise. Raises :class:`~plugin.errors.DriverUnavailable` with what to do; may be
        tried again.
        """

    def close(self) -> None:
        """Shut down; never raises. A closed driver can be opened again.

        Does nothing while a call hangs: see :meth:`held`.
        """

    def held(self) -> tuple[str, ...]:
        """What this process still has of the driver, a sentence each; empty only when a GPU can be
        reset and the kernel module unloaded as far as this process is concerned.
        """

    def scan(self, sought: Collection[str] = (), *, thorough: bool = True) -> Inventory:
        """Read the whole node.

        A scan that is not thorough leaves out GPUs of which a change would be seen without asking:
        events announce it, and the kernel module's files list their instances.

        `sought` are UUIDs of devices known from before. Those that are not found are looked for in
        another way, and are among the inventory's ``doubts`` unless the driver denies them in that
        way too. An unreadable GPU or MIG device is part of the answer, with its error. Raises
        :class:`~plugin.errors.DriverUnavailable` only when the driver as a whole does not answer.
        """

    def watch(self, gpu_uuids: Sequence[str]) -> EventSource:
        """Watch these GPUs for every event they support.

        GPUs that cannot be watched stand in the source's ``failures``. Raises
        :class:`~plugin.errors.DriverUnavailable` when there can be no event source at all.
        """

    def probe(self, gpu_uuid: str, *, thorough: bool) -> Probe:
        """Ask one GPU for its health; never raises.

        A plain probe costs some 50 µs and tells whether the GPU still answers and its recovery
        action; a thorough one asks for the rest as well.
        """

    def sample(self) -> Samples:
        """One round of measuring every GPU and MIG device that the last scan saw; never raises.

        What cannot be read is ``None``; a GPU that is lost and a device that is no more give no
        sample. Activity needs two rounds and lies between them, so the first one has none.
        """

    def stop_sampling(self) -> None:
        """Forget the rounds so far, and free what the library holds for them: the next one is a
        first one. Never raises.
        """
