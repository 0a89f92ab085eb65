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

from msgspec.structs import replace

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.configuration import Configuration
from plugin.core.health.events import DriverEvent, Probe
from plugin.core.health.ledger import Ledger
from plugin.core.health.timeline import Moment, restored_ledger
from plugin.core.inventory.model import Inventory
from plugin.core.release import Phase, Release
from plugin.core.settings import Settings
from plugin.core.state import Snapshot, Step
from plugin.driver.base import Driver
from plugin.driver.hangs import Hung
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import DriverStale, DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.pulse import Pulse
from plugin.loops.store import Store
from plugin.state import reports
from plugin.state.batches import Batches
from plugin.state.clocks import read_clocks
from plugin.state.gate import Gate, Specify
from plugin.state.interest import Watchable
from plugin.state.ledger_file import LedgerFile, Saved
from plugin.state.session import OUT_OF_REACH_SECONDS, Session

log = logging.getLogger(__name__)

#: Between two attempts to open a driver that is not there yet.
REOPEN_SECONDS = 5.0
#: A re-partition makes an event per instance; they become one scan.
COALESCE_SECONDS = 0.02
#: How long :meth:`Writer.probe_now` waits for answers.
PROBE_SECONDS = 1.0
#: How long a command waits for the driver to be let go of, or to be opened again: less than the
#: control socket's client has.
RELEASE_SECONDS = 8.0


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
        specify: Specify | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self._driver = driver
        self._worker = worker
        self._ledger_file = ledger_file
        worker.listen(self._hung)
        ledger_file.on_found = self._rejoin
        self._clocks = clocks
        began = clocks()
        self._state = steps.initial(settings, began.wall, began.offset, configuration)
        self._scans = asyncio.Lock()
        self._rescan_wanted = asyncio.Event()
        self._probe_wanted = asyncio.Event()
        self._probed = Pulse()
        self._events = Batches(self._judge)
        self._gate = Gate(specify)
        self._session = Session(driver, worker, out_of_reach_seconds)
        self._released = Pulse()
        self.interest = self._session.interest
        self.store = Store(self._state.snapshot)

    @property
    def is_open(self) -> bool:
        return self._session.is_open

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
        saved = await self._ledger_file.loaded()
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
            seconds = self._pause()
            heartbeats.beat("node", seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._rescan_wanted.wait()
                    await asyncio.sleep(COALESCE_SECONDS)
            asked = self._rescan_wanted.is_set()
            self._rescan_wanted.clear()
            heartbeats.beat("node", LONGEST_JOB_SECONDS)
            try:
                async with self._scans:  # the driver is not let go of while instances change
                    if not await self._keeps_released():
                        await self._scan(thorough=asked)
            except DriverUnavailable as error:
                self._fail(error)

    def _pause(self) -> float:
        """Until the next look without a cause."""
        release, every = self._state.snapshot.release, self._state.snapshot.settings.rescan_seconds
        if release is None or release.is_over:
            return every if self.is_open else REOPEN_SECONDS
        left = max(0.0, release.until - self.now())
        return min(left, REOPEN_SECONDS if release.phase is Phase.LEAVING else every)

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

    async def _scan(self, *, thorough: bool = True) -> None:
        if not self.is_open:
            await self._open()
        thorough = thorough or scans.needs_all(self._state)
        self._state = scans.scan_begun(self._state, thorough=thorough)
        scan = await self._read(thorough=thorough)
        async with self._gate.passing:
            specified = None
            if self._gate.has_work(self._state.snapshot.settings):
                ahead = scans.scan_ended(self._state, scan, self.now())
                specified = await self._gate.specified(ahead.state.snapshot)
            await self.judged()  # what came before the answer is about what was there before
            now = self._present()
            self._take(scans.scan_ended(self._state, scan, now, specified))

    async def _read(self, *, thorough: bool) -> Inventory:
        sought = scans.sought(self._state)

        def scan() -> Inventory:
            return self._driver.scan(sought, thorough=thorough)

        try:
            return await self._worker.call(scan)
        except DriverStale as error:
            log.info("opening the driver again", extra={"reason": str(error)})
            await self._open()
            return await self._worker.call(self._driver.scan, sought)

    async def specify(self) -> None:
        """Bring the CDI specification up to date."""
        async with self._gate.passing:
            specified = await self._gate.specified(self._state.snapshot)
            if specified is not None:
                self._take(steps.specified(self._state, specified))

    def _hung(self, hung: Hung, *, returned: bool) -> None:
        """A call of the driver hangs, or has returned after all: a scan shows what that means."""
        reports.hung(hung, returned=returned)
        self.rescan()

    def _fail(self, error: DriverUnavailable) -> None:
        """The driver cannot be used. Raises :class:`DriverOutOfReach` when it never will be."""
        self._session.failed(error)
        self._take(scans.scan_failed(self._state, scans.driver_unavailable(str(error))))

    async def _open(self) -> None:
        await self._session.open()
        self._want()

    # ---- releasing the driver

    async def release(
        self, gpus: Collection[str], seconds: float, *, patience: float = RELEASE_SECONDS
    ) -> tuple[str, ...]:
        """Let go of the driver for so long; these GPUs may be reset meanwhile. Returns what is
        still held of it after `patience` at most; that is let go of when it can be.
        """
        now = self._present()
        self._take(operators.released(self._state, gpus, now, seconds))
        self._session.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._released.wait()
        release = self._state.snapshot.release
        if release is not None and release.phase is Phase.RELEASED:
            return ()
        left = release.left if release is not None else ("the release was ended meanwhile",)
        return left or (self._session.pending() or "the driver is busy",)

    async def resume(self) -> Release | None:
        """End a release. Returns what is left of it after :data:`RELEASE_SECONDS` at most: nothing
        once a scan has shown what is there, or has failed.
        """
        self._take(operators.resumed(self._state))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                while (snapshot := self.store.snapshot).release is not None:
                    await self.store.newer_than(snapshot.generation)
        return self.store.snapshot.release

    async def _keeps_released(self) -> bool:
        """Whether the driver is not to be asked now; closes it where that is still to be done."""
        release = self._state.snapshot.release
        if release is None or release.is_over:
            return False
        now = self._present()
        if now >= release.until:
            self._take(operators.resumed(self._state, expired=True))
            return False
        if release.phase is Phase.LEAVING:
            try:
                left = await self._session.close()
            except DriverUnavailable as error:
                left = (error.what,)
            self._take(operators.let_go(self._state, left))
            self._released.fire()
        return True

    # ---- events

    def on_event(self, event: DriverEvent) -> None:
        """An event of the driver: judged, written down and published at once, together with all
        that wait with it.
        """
        log.debug(
            "event", extra={"kind": event.kind.name, "gpu": event.gpu_uuid, "data": event.data}
        )
        self._events.add(event)

    def _judge(self, events: list[DriverEvent]) -> None:
        now = self._present()
        self._take(steps.happened(self._state, events, now))

    async def judged(self) -> None:
        """Wait until every event that has been received is judged."""
        await self._events.judged()

    # ---- probes and time

    def on_probes(self, probes: Iterable[Probe]) -> None:
        """Fresh answers of GPUs; none where the driver was let go of while they were asked."""
        if self._state.snapshot.release is not None and not self.is_open:
            return
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
        self._session.want(steps.watchable(self._state.snapshot))

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

    def reconfigure(self, settings: Settings, configuration: Configuration | None = None) -> None:
        """Decide anew, with other settings, about what was last seen."""
        self._take(steps.configured(self._state, settings, configuration))

    async def apply(self, settings: Settings, configuration: Configuration | None = None) -> None:
        """The same, once the CDI specification on disk is as these settings want it."""
        async with self._gate.passing:
            ahead = replace(self._state.snapshot, settings=settings)
            specified = await self._gate.specified(ahead)
            self._take(steps.configured(self._state, settings, configuration, specified))

    def note_configuration(self, configuration: Configuration) -> None:
        """The settings stay."""
        self._take(steps.configuration_noted(self._state, configuration))

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
