"""The one writer of the node's state: scans, events, probes and commands come in,
snapshots go out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from plugin.core.advertise.advertisement import Advertisement, advertise
from plugin.core.health import ledger as ledgers
from plugin.core.health import recovery
from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.faults import Fault, Severity, judge, probe_faults, watching
from plugin.core.health.ledger import Escalation, Ledger
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.merge import carry_over
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.reasons import Code, Reason, Scope
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverStale, DriverUnavailable, TargetError
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.store import Store
from plugin.state import reports
from plugin.state.ledger_file import LedgerFile

log = logging.getLogger(__name__)

#: Between two attempts to open a driver that is not there yet.
REOPEN_SECONDS = 5.0
#: A re-partition makes an event per instance; they become one look.
COALESCE_SECONDS = 0.02
#: So many events are judged in one go, in some 20 ms.
MOST_EVENTS = 500
#: How long the thread that waits for events may take to end before the driver is opened again.
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Watchable:
    """GPUs whose events are to be watched. ``epoch`` counts how often the driver was opened."""

    epoch: int
    gpus: tuple[str, ...]


class Node:
    """Owns the driver's worker, the ledger and the store. Used from the event loop only; nothing
    here blocks.
    """

    def __init__(
        self,
        driver: Driver,
        worker: DriverWorker,
        settings: Settings,
        ledger_file: LedgerFile,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._driver = driver
        self._worker = worker
        self._ledger_file = ledger_file
        self._clock = clock
        self._epoch = 0
        self._wake = asyncio.Event()
        self._probe_wanted = asyncio.Event()
        self._probed = asyncio.Event()
        self._interest = asyncio.Event()
        self._saved_before_boot = False
        self._watched: Watchable | None = None
        #: How often the set of devices has changed, and when it last did.
        self.geometry, self.geometry_changed = 0, clock()
        # GPUs whose geometry changed since the last scan began, and before the one that is under
        # way; and the events of their instances, which can be told apart only after it.
        self._changed_gpus: set[str] = set()
        self._scanned_gpus: set[str] = set()
        self._deferred: list[DriverEvent] = []
        self._events: list[DriverEvent] = []
        self.is_open = False
        #: Set while nobody waits for the driver's events, so that it can be closed.
        self.unused = asyncio.Event()
        self.unused.set()
        self.store = Store(Snapshot(0, settings, Inventory(), Advertisement()))

    # ---- scanning

    async def start(self) -> None:
        """Load the ledger, open the driver and publish the first scan.

        Raises :class:`DriverUnavailable` when that fails and the settings want it to be fatal.
        """
        saved = self._ledger_file.load()
        self._saved_before_boot = saved.rebooted
        try:
            await self._scan(ledger=saved.ledger)
        except DriverUnavailable as error:
            if self.store.snapshot.settings.fail_on_init_error:
                raise
            self._publish(driver_error=driver_unavailable(error), ledger=saved.ledger)

    async def run(self, heartbeats: Heartbeats) -> None:
        """Look at the node again on schedule, or when asked to, until cancelled."""
        while True:
            seconds = (
                self.store.snapshot.settings.rescan_seconds if self.is_open else REOPEN_SECONDS
            )
            heartbeats.beat("node", seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
                    await asyncio.sleep(COALESCE_SECONDS)
            self._wake.clear()
            try:
                await self._scan()
            except DriverUnavailable as error:
                self.is_open = False
                self._publish(driver_error=driver_unavailable(error))

    def now(self) -> float:
        """The clock by which verdicts are timed, in seconds."""
        return self._clock()

    def rescan(self) -> None:
        """Have :meth:`run` look at the node now."""
        self._wake.set()

    async def _scan(self, ledger: Ledger | None = None) -> None:
        if not self.is_open:
            await self._open()
        self._scanned_gpus, self._changed_gpus = self._changed_gpus, set()
        try:
            try:
                inventory = await self._worker.call(self._driver.scan)
            except DriverStale as error:
                log.info("opening the driver again", extra={"reason": str(error)})
                await self._open()
                inventory = await self._worker.call(self._driver.scan)
            self._take(inventory, ledger if ledger is not None else self.store.snapshot.ledger)
        finally:
            self._scanned_gpus = set()
            deferred, self._deferred = self._deferred, []
            for event in deferred:
                self.on_event(event)

    async def _open(self) -> None:
        """(Re)open the driver, once nobody waits for events of the one before; a waiter that hangs
        is left behind.
        """
        self.is_open = False
        self._tell_watchers()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.unused.wait()
        await self._worker.call(self._driver.open)
        self.is_open = True
        self._epoch += 1
        self._tell_watchers()

    def _take(self, scanned: Inventory, ledger: Ledger) -> None:
        """A finished scan becomes the state."""
        old = self.store.snapshot
        now = self._clock()
        inventory = carry_over(old.inventory, scanned)
        gpu_health = {}
        for gpu in inventory.gpus:
            how = old.gpu_health.get(gpu.uuid) or GpuHealth(
                reset_seen=now if self._saved_before_boot else None
            )
            before = next((g for g in old.inventory.gpus if g.uuid == gpu.uuid), None)
            if before is not None and before.mig_devices and not gpu.mig_devices and not gpu.error:
                how = replace(how, reset_seen=now)  # a reset leaves no instance behind
            gpu_health[gpu.uuid] = how
        if not self.geometry or _geometry(inventory) != _geometry(old.inventory):
            self.geometry, self.geometry_changed = self.geometry + 1, now
        recovered = recovery.recover(
            ledger,
            inventory,
            gpu_health,
            now,
            old.settings.quiet_seconds,
            complete=_complete(inventory),
        )
        reports.cleared(recovered.cleared)
        self._publish(
            inventory=inventory,
            driver_error=None,
            ledger=recovered.ledger,
            gpu_health=MappingProxyType(gpu_health),
        )
        if any(gpu.uuid not in old.gpu_health for gpu in inventory.gpus):
            self._probe_wanted.set()

    # ---- events and
    # probes

    def on_event(self, event: DriverEvent) -> None:
        """An event of the driver: judged, written down and published at once, together with all
        that wait with it.
        """
        if not self._events:
            asyncio.get_running_loop().call_soon(self._judge_events)
        self._events.append(event)

    def _judge_events(self) -> None:
        """Judge what has come in, publish once; a storm is taken in portions, so that kubelet is
        answered between.
        """
        events, self._events = self._events[:MOST_EVENTS], self._events[MOST_EVENTS:]
        if self._events:
            asyncio.get_running_loop().call_soon(self._judge_events)
        faults = [fault for event in events if (fault := self._judge(event)) is not None]
        self._record(faults)
        if any(event.kind is not EventKind.MIG_CONFIG for event in events):
            # Any fault may change what the driver recommends; only asking tells.
            self._probe_wanted.set()

    def _judge(self, event: DriverEvent) -> Fault | None:
        snapshot = self.store.snapshot
        log.debug(
            "event", extra={"kind": event.kind.name, "gpu": event.gpu_uuid, "data": event.data}
        )
        if event.kind is EventKind.MIG_CONFIG:
            self._changed_gpus.add(event.gpu_uuid)
            self.rescan()
            return None
        if event.gi is not None and event.gpu_uuid in self._changed_gpus | self._scanned_gpus:
            # Instance ids are used again at once: what we know may be the device that was there
            # before.
            self._deferred.append(event)
            return None
        fault = judge(event, snapshot.inventory, snapshot.settings)
        if fault is not None and not fault.targets:
            # It names an instance that we do not know: it counts for the GPU, and we look what is
            # there.
            log.warning(
                "a fault of an unknown instance",
                extra={"gpu": event.gpu_uuid, "gi": event.gi, "ci": event.ci},
            )
            fault = replace(fault, targets=(fault.gpu_uuid,), severity=Severity.COUNTED)
            self.rescan()
        return fault

    def on_probes(self, probes: Iterable[Probe]) -> None:
        """Fresh answers of GPUs."""
        snapshot = self.store.snapshot
        now = self._clock()
        gpu_health = dict(snapshot.gpu_health)
        faults: list[Fault] = []
        for probe in probes:
            before = gpu_health.get(probe.gpu_uuid, GpuHealth())
            how = gpu_health[probe.gpu_uuid] = recovery.after_probe(before, probe, now)
            faults += probe_faults(how.probe or probe)
            if (before.probe is not None and before.probe.lost) != probe.lost:
                self.rescan()  # what was on it is gone, or there again
        self._publish(gpu_health=MappingProxyType(gpu_health))
        ledger = self.store.snapshot.ledger
        self._record(
            [
                f
                for f in faults
                if f.gpu_uuid not in ledger or ledger[f.gpu_uuid].reason(f.code) is None
            ]
        )
        self._probed.set()
        self._probed = asyncio.Event()

    def evaluate(self) -> float | None:
        """Clear what may be cleared by now; returns when to look again."""
        snapshot = self.store.snapshot
        recovered = recovery.recover(
            snapshot.ledger,
            snapshot.inventory,
            snapshot.gpu_health,
            self._clock(),
            snapshot.settings.quiet_seconds,
            complete=snapshot.driver_error is None and _complete(snapshot.inventory),
        )
        reports.cleared(recovered.cleared)
        self._publish(ledger=recovered.ledger)
        return recovered.look_again

    def probe_targets(self) -> tuple[str, ...]:
        return tuple(gpu.uuid for gpu in self.store.snapshot.inventory.gpus)

    async def wait_for_probe_request(self, seconds: float) -> None:
        """Until somebody wants a probe now, or for `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._probe_wanted.wait()
        self._probe_wanted.clear()

    async def probe_now(self) -> None:
        """Have every GPU probed and wait a little for the answers."""
        probed = self._probed
        self._probe_wanted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await probed.wait()

    def _record(self, faults: Sequence[Fault]) -> None:
        snapshot = self.store.snapshot
        ledger, now, escalation = snapshot.ledger, self._clock(), self._escalation()
        for fault in faults:
            ledger = ledgers.record(ledger, fault, snapshot.inventory, now, escalation)
        self._publish(ledger=ledger)
        reports.faults(faults, self.store.snapshot.generation)

    def _escalation(self) -> Escalation:
        settings = self.store.snapshot.settings
        return Escalation(settings.escalate_count, settings.escalate_seconds)

    # ---- for watching

    async def watchable(self) -> Watchable:
        """GPUs whose events should be watched now; waits until the driver is open."""
        while not self.is_open:
            await self._interest.wait()
        return self._watchable()

    async def other_than(self, watched: Watchable) -> None:
        """Wait until something else should be watched."""
        while self.is_open and self._watchable() == watched:
            await self._interest.wait()

    async def watched(self) -> None:
        """Wait until events of everything watchable are watched."""
        while not self.is_open or self._watched != self._watchable():
            await self._interest.wait()

    def _tell_watchers(self) -> None:
        self._interest.set()
        self._interest = asyncio.Event()

    def watches(self, watched: Watchable, failures: Mapping[str, str]) -> None:
        """Events of `watched` are watched now, but for `failures`."""
        self._watched = watched
        self.unwatched(failures)
        self._tell_watchers()

    def unwatched(self, failures: Mapping[str, str]) -> None:
        """GPUs whose events cannot be watched, and why: they are held down until they can be."""
        reasons = {uuid: Reason(Code.UNWATCHED, text) for uuid, text in failures.items()}
        self._publish(unwatched=MappingProxyType(reasons))

    def _watchable(self) -> Watchable:
        snapshot = self.store.snapshot
        if not watching(snapshot.settings):
            return Watchable(self._epoch, ())
        lost = {
            uuid
            for uuid, how in snapshot.gpu_health.items()
            if how.probe is not None and how.probe.lost
        }
        gpus = tuple(gpu.uuid for gpu in snapshot.inventory.gpus if gpu.uuid not in lost)
        return Watchable(self._epoch, gpus)

    # ---- commands

    def resolve(self, target: str) -> str:
        """The UUID that an operator means by a UUID, ``INDEX`` or ``INDEX:MIG``. Raises
        :class:`TargetError`.
        """
        devices = self.store.snapshot.inventory.devices()
        for device in devices:
            if target in {device.uuid, device.path}:
                return device.uuid
        if target in self.store.snapshot.ledger:
            return target  # not there now, but what holds it down can be taken back
        known = ", ".join(device.path for device in devices) or "none"
        raise TargetError(f"no device {target!r} on this node; choose a UUID or one of {known}")

    def cordon(self, uuid: str) -> None:
        snapshot = self.store.snapshot
        log.info("cordoned", extra={"device": uuid})
        self._publish(
            ledger=ledgers.cordon(snapshot.ledger, uuid, snapshot.inventory, self._clock())
        )

    def uncordon(self, uuid: str) -> None:
        log.info("uncordoned", extra={"device": uuid})
        self._publish(ledger=ledgers.uncordon(self.store.snapshot.ledger, uuid))

    def clear(self, uuid: str) -> None:
        log.info("cleared by an operator", extra={"device": uuid})
        snapshot = self.store.snapshot
        ledger = ledgers.clear(snapshot.ledger, uuid, snapshot.inventory)
        # What a GPU itself said when last asked is still so: kubelet must not see it healthy in
        # between.
        probe = snapshot.gpu_health.get(uuid, GpuHealth()).probe
        for fault in probe_faults(probe) if probe is not None else ():
            ledger = ledgers.record(
                ledger, fault, snapshot.inventory, self._clock(), self._escalation()
            )
        self._publish(ledger=ledger)
        self._probe_wanted.set()

    async def saved(self) -> str | None:
        """Wait until the ledger is on disk; returns why it is not."""
        return await self._ledger_file.saved()

    def reconfigure(self, settings: Settings) -> None:
        """Decide anew, with other settings, about what was last seen."""
        self._publish(settings=settings)
        self._probe_wanted.set()

    # ---- publishing

    def _publish(self, **changes: Any) -> None:
        """Replace fields of the snapshot, decide what to advertise, and publish when anything is
        different.
        """
        old = self.store.snapshot
        if old.generation and all(getattr(old, name) == value for name, value in changes.items()):
            return
        new = replace(old, **changes)
        new = replace(new, advertisement=advertise(new.inventory, new.settings, _verdicts(new)))
        new = replace(new, generation=old.generation + 1)
        self.store.publish(new)
        self._tell_watchers()
        reports.snapshot(old, new)
        if new.ledger is not old.ledger:
            self._ledger_file.save(new.ledger)


def driver_unavailable(error: DriverUnavailable) -> Reason:
    return Reason(Code.DRIVER_UNAVAILABLE, str(error), scope=Scope.NODE)


def _complete(inventory: Inventory) -> bool:
    """Whether a GPU that is not in a scan is certainly not on the node."""
    return bool(inventory.gpus) and not inventory.unreadable


def _geometry(inventory: Inventory) -> list[tuple[str, bool | None]]:
    return [
        (device.uuid, device.mig.current if isinstance(device, Gpu) and device.mig else None)
        for device in inventory.devices()
    ]


def _verdicts(snapshot: Snapshot) -> Mapping[str, tuple[Reason, ...]]:
    """Why each device is down: what the ledger holds, and what is wrong just now."""
    found = ledgers.verdicts(snapshot.ledger, snapshot.inventory)
    for device in snapshot.inventory.devices():
        unwatched = snapshot.unwatched.get(device.gpu_uuid)
        now = [reason for reason in (snapshot.driver_error, unwatched) if reason]
        if now:
            found[device.uuid] = (*found.get(device.uuid, ()), *now)
    return found
