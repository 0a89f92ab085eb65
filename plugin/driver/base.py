"""The narrow protocol between the plugin and a GPU driver, real or simulated.

Calls block and may hang: they belong into the driver's own worker thread, never on the event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Samples
from plugin.driver.hangs import Hangs

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


class Driver(Protocol):
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
