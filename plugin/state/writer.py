"""The one writer of the node's state: scans, events, probes and commands come in, snapshots go
out.

It decides nothing: each input makes one step of :mod:`plugin.core.state`, whose snapshot is
published when it is different, whose news are logged, and whose requests wake the loops here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.health.events import DriverEvent, Probe
from plugin.core.health.ledger import Ledger
from plugin.core.health.timeline import Moment, restored_ledger
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.core.state import Snapshot, Step
from plugin.driver.base import Driver
from plugin.driver.hangs import Hung
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import DriverOutOfReach, DriverStale, DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.pulse import Pulse
from plugin.loops.store import Store
from plugin.state import reports
from plugin.state.clocks import read_clocks
from plugin.state.interest import Interest, Watchable
from plugin.state.ledger_file import LedgerFile, Saved

log = logging.getLogger(__name__)

#: Between two attempts to open a driver that is not there yet.
REOPEN_SECONDS = 5.0
#: How long a driver that cannot come into this container is waited for all the same.
OUT_OF_REACH_SECONDS = 300.0
#: A re-partition makes an event per instance; they become one scan.
COALESCE_SECONDS = 0.02
#: So many events are judged in one go, in some 20 ms.
MOST_EVENTS = 500
#: Events that come so soon after others were judged wait, and are judged together.
STORM_SECONDS = 0.005
#: How long the thread that waits for events may take to end before the driver is opened again.
CLOSE_SECONDS = 5.0
#: How long :meth:`Writer.probe_now` waits for answers.
PROBE_SECONDS = 1.0


#: Makes a scan; returns the snapshot with it. Raises :class:`DriverUnavailable`.
Look = Callable[[], Awaitable[Snapshot]]


class Writer:
    """Owns the driver's worker, the ledger and the store. Used from the event loop only; nothing
    here blocks.
    """

    def __init__(
        self,
        driver: Driver,
        worker: DriverWorker,
        settings: Settings,
        ledger_file: LedgerFile,
        clocks: Callable[[], Moment] = read_clocks,
        out_of_reach_seconds: float = OUT_OF_REACH_SECONDS,
    ) -> None:
        self._driver = driver
        self._worker = worker
        self._ledger_file = ledger_file
        worker.listen(self._hung)
        ledger_file.on_found = self._rejoin
        self._clocks = clocks
        began = clocks()
        self._state = steps.initial(settings, began.wall, began.offset)
        self._scans = asyncio.Lock()
        self._rescan_wanted = asyncio.Event()
        self._probe_wanted = asyncio.Event()
        self._probed = Pulse()
        self._events: list[DriverEvent] = []
        self._next_judging = 0.0
        self._received = self._judged = 0  # events so far
        self._judging = Pulse()
        self._epoch = 0
        self._out_of_reach_seconds = out_of_reach_seconds
        self._final_since: float | None = None
        self.is_open = False
        self.interest = Interest()
        self.store = Store(self._state.snapshot)

    def now(self) -> float:
        """The time on the state's timeline, in seconds: never steps, and is the wall clock's as of
        the last step of the state.
        """
        return self._state.offset + self._clocks().monotonic

    def _present(self) -> float:
        """The same for a step that follows at once: if the wall clock was set, all is moved
        first.
        """
        moment = self._clocks()
        self._take(steps.clocks_read(self._state, moment))
        return self._state.offset + moment.monotonic

    # ---- scanning

    async def start(self) -> None:
        """Load the ledger, open the driver and publish the first scan.

        Raises :class:`DriverUnavailable` when that fails and the settings want it to be fatal.
        """
        saved = self._ledger_file.load()
        ledger = restored_ledger(saved.ledger, saved.offset, self._clocks())
        self._state = steps.restored(self._state, ledger, rebooted=saved.rebooted)
        try:
            await self._scan()
        except DriverUnavailable as error:
            if self._state.snapshot.settings.fail_on_init_error:
                raise
            self._fail(error)

    async def run(self, heartbeats: Heartbeats) -> None:
        """Scan the node again on schedule, or when asked to, until cancelled."""
        while True:
            seconds = (
                self._state.snapshot.settings.rescan_seconds if self.is_open else REOPEN_SECONDS
            )
            heartbeats.beat("node", seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._rescan_wanted.wait()
                    await asyncio.sleep(COALESCE_SECONDS)
            self._rescan_wanted.clear()
            heartbeats.beat("node", LONGEST_JOB_SECONDS)
            try:
                async with self._scans:
                    await self._scan()
            except DriverUnavailable as error:
                self._fail(error)

    def rescan(self) -> None:
        """Have :meth:`run` scan the node now, and what cannot be watched tried again."""
        self._rescan_wanted.set()
        self.interest.retry()

    @contextlib.asynccontextmanager
    async def between_scans(self, changing: Collection[str]) -> AsyncIterator[Look]:
        """The instances of the GPUs in `changing` are changed within. No scan is made but by the
        function that it gives.
        """

        async def look() -> Snapshot:
            self._state = operators.reconfiguring(self._state, changing)
            await self._scan()
            return self._state.snapshot

        async with self._scans:
            self._state = operators.reconfiguring(self._state, changing)
            yield look

    async def _scan(self) -> None:
        if not self.is_open:
            await self._open()
        self._state = scans.scan_begun(self._state)
        scan = await self._read()
        await self.judged()  # what came before the answer is about what was there before
        now = self._present()
        self._take(scans.scan_ended(self._state, scan, now))

    async def _read(self) -> Inventory:
        try:
            return await self._worker.call(self._driver.scan, scans.sought(self._state))
        except DriverStale as error:
            log.info("opening the driver again", extra={"reason": str(error)})
            await self._open()
            return await self._worker.call(self._driver.scan, scans.sought(self._state))

    def _hung(self, hung: Hung, *, returned: bool) -> None:
        """A call of the driver hangs, or has returned after all: a scan shows what that means."""
        reports.hung(hung, returned=returned)
        self.rescan()

    def _fail(self, error: DriverUnavailable) -> None:
        """The driver cannot be used. Raises :class:`DriverOutOfReach` when it never will be."""
        self.is_open = False
        now = asyncio.get_running_loop().time()
        if not error.final:
            self._final_since = None
        elif self._final_since is None:
            self._final_since = now
        elif now - self._final_since >= self._out_of_reach_seconds:
            raise DriverOutOfReach(
                error.what,
                "that cannot change in this container: ending, so that a new one is made, to "
                "which NVIDIA's runtime adds the library of the driver that is loaded then",
            ) from error
        self._take(scans.scan_failed(self._state, scans.driver_unavailable(str(error))))

    async def _open(self) -> None:
        """(Re)open the driver, once nobody waits for events of the one before; a waiter that hangs
        is left behind.
        """
        self.is_open = False
        self.interest.want(None)
        await self.interest.unused(CLOSE_SECONDS)
        await self._worker.call(self._driver.open)
        self.is_open = True
        self._final_since = None
        self._epoch += 1
        self._want()

    # ---- events

    def on_event(self, event: DriverEvent) -> None:
        """An event of the driver: judged, written down and published at once, together with all
        that wait with it.
        """
        log.debug(
            "event", extra={"kind": event.kind.name, "gpu": event.gpu_uuid, "data": event.data}
        )
        if not self._events:
            loop = asyncio.get_running_loop()
            # The first event at once, those of a storm behind it together.
            loop.call_at(max(loop.time(), self._next_judging), self._judge_events)
        self._events.append(event)
        self._received += 1

    def _judge_events(self) -> None:
        """Judge what has come in, publish once; a storm is taken in portions, so that kubelet is
        answered between.
        """
        events, self._events = self._events[:MOST_EVENTS], self._events[MOST_EVENTS:]
        if self._events:
            asyncio.get_running_loop().call_soon(self._judge_events)
        now = self._present()
        self._take(steps.happened(self._state, events, now))
        self._next_judging = asyncio.get_running_loop().time() + STORM_SECONDS
        self._judged += len(events)
        self._judging.fire()

    async def judged(self) -> None:
        """Wait until every event that has been received is judged."""
        received = self._received
        while self._judged < received:
            await self._judging.wait()

    # ---- probes and time

    def on_probes(self, probes: Iterable[Probe]) -> None:
        """Fresh answers of GPUs."""
        now = self._present()
        self._take(steps.probed(self._state, probes, now))
        self._probed.fire()

    def evaluate(self) -> float | None:
        """Clear what may be cleared by now; returns when to look again."""
        now = self._present()
        return self._take(steps.ticked(self._state, now)).look_again

    def probe_targets(self) -> tuple[str, ...]:
        return tuple(gpu.uuid for gpu in self._state.snapshot.inventory.gpus)

    async def wait_for_probe_request(self, seconds: float) -> None:
        """Until somebody wants a probe now, or for `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._probe_wanted.wait()
        self._probe_wanted.clear()

    async def probe_now(self) -> None:
        """Have every GPU probed and wait a little for the answers."""
        self._probe_wanted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS):
                await self._probed.wait()

    # ---- watching

    def watches(self, watched: Watchable, failures: Mapping[str, str]) -> None:
        """Events of `watched` are watched now, but for `failures`."""
        self.unwatched(failures)
        self.interest.watches(watched)

    def unwatched(self, failures: Mapping[str, str]) -> None:
        """GPUs whose events cannot be watched, and why."""
        self._take(steps.watched(self._state, failures))

    async def watched(self) -> None:
        """Wait until events of everything watchable are watched."""
        await self.interest.satisfied()

    def _want(self) -> None:
        gpus = steps.watchable(self._state.snapshot)
        self.interest.want(Watchable(self._epoch, gpus) if self.is_open else None)

    # ---- commands

    def cordon(self, uuid: str) -> None:
        now = self._present()
        self._take(operators.cordoned(self._state, uuid, now))

    def uncordon(self, uuid: str) -> None:
        self._take(operators.uncordoned(self._state, uuid))

    def clear(self, uuid: str) -> None:
        now = self._present()
        self._take(operators.cleared(self._state, uuid, now))
        self.interest.retry()

    def withdraw(self, withdrawal: Withdrawal) -> None:
        """Keep these devices from pods, and no others any more."""
        self._take(operators.withdrawn(self._state, withdrawal))

    async def saved(self) -> str | None:
        """Wait until the ledger is on disk; returns why it is not."""
        return await self._ledger_file.saved()

    def _rejoin(self, base: Ledger, saved: Saved) -> None:
        """Take over what another process has saved since both had `base`."""
        theirs = restored_ledger(saved.ledger, saved.offset, self._clocks())
        self._take(steps.rejoined(self._state, base, theirs))

    def reconfigure(self, settings: Settings) -> None:
        """Decide anew, with other settings, about what was last seen."""
        self._take(steps.configured(self._state, settings))

    # ---- one step

    def _take(self, step: Step) -> Step:
        """Make the step's state the node's: publish it if it is different, tell its news, and have
        done what it asks for.
        """
        old, new = self._state.snapshot, step.state.snapshot
        self._state = step.state
        reports.before(step.news)
        if new.generation != old.generation:
            self._publish(old, new)
        reports.after(step.news, new.generation)
        if step.rescan:
            self._rescan_wanted.set()
        if step.probe:
            self._probe_wanted.set()
        self._want()
        return step

    def _publish(self, old: Snapshot, new: Snapshot) -> None:
        self.store.publish(new)
        reports.snapshot(old, new)
        if new.ledger is not old.ledger:
            self._ledger_file.save(new.ledger, self._state.offset)
