"""The node's state, and the pure steps from one state to the next.

Each step takes the state and one input, and returns a :class:`Step`: the new state, what there is
to tell, and what has to be asked next. Nothing here waits, asks or logs; the writer does that.

The hardest rule is that of instance ids. The driver gives the id of a destroyed instance to the
next one at once, and an event names nothing but ids. So from a MIG configuration event of a GPU on,
events of its instances are deferred: which instance they mean is known once a scan has ended that
began after the last configuration event and could read the GPU. A scan that fails answers nothing,
so they wait on.

Times are seconds on the timeline of :mod:`plugin.core.health.timeline`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.advertise.advertisement import Advertisement, advertise
from plugin.core.advertise.withdrawal import NO_WITHDRAWAL, Withdrawal
from plugin.core.cdi.standing import Specified, unspecified
from plugin.core.configuration import Configuration
from plugin.core.health import ledger as ledgers
from plugin.core.health import recovery
from plugin.core.health.answers import answers
from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.faults import Fault, Severity, judge, watching
from plugin.core.health.ledger import EMPTY, Escalation, Ledger, after_reboot
from plugin.core.health.merging import merged
from plugin.core.health.recovery import GpuHealth
from plugin.core.health.timeline import Moment, clock_step, moved_health, moved_ledger
from plugin.core.inventory.model import Inventory
from plugin.core.news import ClockSet, Judged, News, ReasonCleared, UnknownInstance
from plugin.core.reasons import Code, Reason
from plugin.core.release import RELEASED, Release
from plugin.core.settings import Settings

#: Events that wait for a scan. While a GPU cannot be read for so long it is out of service anyway.
MOST_DEFERRED = 10_000


class Snapshot(Struct, frozen=True):
    """The node at one generation (a number that only grows): what readers see.

    ``gpu_health`` maps GPU UUIDs to how they answer, ``unwatched`` to why their events cannot be
    watched. ``geometry`` counts how often the set of devices has changed and ``geometry_changed``
    is when it last did, in seconds of the wall clock. ``specified`` is the CDI specification on
    disk. ``release`` is there while the driver is released, and until a scan has shown what is
    there after that. ``configuration`` tells where the settings are from, and whether newer ones
    were refused. ``withdrawal`` is what partitioning keeps from pods.
    """

    generation: int
    settings: Settings
    inventory: Inventory
    advertisement: Advertisement
    driver_error: Reason | None = None
    ledger: Ledger = field(default_factory=lambda: EMPTY)
    gpu_health: Mapping[str, GpuHealth] = field(default_factory=lambda: MappingProxyType({}))
    unwatched: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
    geometry: int = 0
    geometry_changed: float = 0.0
    specified: Specified = field(default_factory=Specified)
    release: Release | None = None
    configuration: Configuration = field(default_factory=Configuration)
    withdrawal: Withdrawal = NO_WITHDRAWAL


class State(Struct, frozen=True):
    """The snapshot, and what only the next steps need.

    ``changed`` are GPUs whose MIG configuration changed since the last scan began, ``scanned``
    those for which it changed before the scan that is under way. ``deferred`` are events of their
    instances, in order. ``undecided`` are faults that the next probe of their GPU decides.
    ``rebooted`` says that the ledger was saved before the node's last boot, and ``offset`` is the
    timeline's: wall clock minus monotonic clock.
    ``unseen`` are MIG devices that the last scan was the first not to show, ``unread`` what it
    could not read. ``looks`` counts the scans that were asked for because of these, in a row, and
    ``quick`` those, in a row, that did not read everything.
    """

    snapshot: Snapshot
    changed: frozenset[str] = frozenset()
    scanned: frozenset[str] = frozenset()
    deferred: tuple[DriverEvent, ...] = ()
    undecided: tuple[Fault, ...] = ()
    rebooted: bool = False
    offset: float = 0.0
    unseen: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    looks: int = 0
    quick: int = 0


class Step(Struct, frozen=True):
    """A new state with its news. ``rescan`` and ``probe`` ask for these now, ``look_again`` for
    another tick at that time.
    """

    state: State
    news: tuple[News, ...] = ()
    rescan: bool = False
    probe: bool = False
    look_again: float | None = None


def initial(
    settings: Settings,
    now: float,
    offset: float = 0.0,
    configuration: Configuration | None = None,
) -> State:
    """Before the first scan: generation 0, which no reader is shown."""
    empty = Snapshot(
        0,
        settings,
        Inventory(),
        Advertisement(),
        geometry_changed=now,
        configuration=configuration or Configuration(),
    )
    return State(empty, offset=offset)


def restored(state: State, ledger: Ledger, *, rebooted: bool) -> State:
    """With the ledger of an earlier process, before the first scan."""
    if rebooted:
        ledger = after_reboot(ledger)
    return replace(state, snapshot=replace(state.snapshot, ledger=ledger), rebooted=rebooted)


def rejoined(state: State, base: Ledger, saved: Ledger) -> Step:
    """Another process has saved its ledger since both had `base`: what it changed holds too."""
    ledger = merged(base, state.snapshot.ledger, saved)
    if not state.snapshot.generation:
        return Step(replace(state, snapshot=replace(state.snapshot, ledger=ledger)))
    return Step(decide(state, ledger=ledger))


def clocks_read(state: State, moment: Moment) -> Step:
    """Both clocks were read, ahead of another step: if the wall clock was set, so are all times."""
    old = state.snapshot
    by = clock_step(state.offset, moment)
    if not by or not old.generation:
        return Step(state)
    state = decide(
        replace(state, offset=state.offset + by),
        ledger=moved_ledger(old.ledger, by),
        gpu_health=moved_health(old.gpu_health, by),
        geometry_changed=old.geometry_changed + by,
        release=old.release and replace(old.release, until=old.release.until + by),
    )
    return Step(state, (ClockSet(by),))


# ---- events, probes, time


def happened(state: State, events: Iterable[DriverEvent], now: float) -> Step:
    """Events of the driver, in order."""
    snapshot, changed, deferred = state.snapshot, set(state.changed), list(state.deferred)
    faults: list[Fault] = []
    news: list[News] = []
    rescan = probe = False
    for event in events:
        if event.kind is EventKind.MIG_CONFIG:
            changed.add(event.gpu_uuid)
            rescan = True
            continue
        probe = True  # any fault may change what the driver recommends
        reused = event.gi is not None and event.gpu_uuid in changed | state.scanned
        if reused and len(deferred) < MOST_DEFERRED:
            deferred.append(event)
            continue
        fault = judge(event, snapshot.inventory, snapshot.settings)
        if fault is None:
            continue
        if reused or not fault.targets:
            # Which instance it names is not known: it counts for the GPU, and a scan shows what is
            # there.
            if not reused:
                news.append(UnknownInstance(event))
                rescan = True
            fault = replace(fault, targets=(fault.gpu_uuid,), severity=Severity.COUNTED)
        faults.append(fault)
    open_ = (fault for fault in faults if fault.severity is Severity.UNDECIDED)
    state = replace(
        state,
        changed=frozenset(changed),
        deferred=tuple(deferred),
        undecided=tuple(dict.fromkeys((*state.undecided, *open_))),
    )
    return _recorded(Step(state, tuple(news), rescan, probe), faults, now)


def probed(state: State, probes: Iterable[Probe], now: float) -> Step:
    """Fresh answers of GPUs."""
    old = state.snapshot
    found = answers(old.gpu_health, probes, state.undecided, old.ledger, old.inventory, now)
    state = replace(state, undecided=found.undecided)
    step = Step(decide(state, gpu_health=found.health), rescan=found.moved)
    return _recorded(step, found.faults, now)


def ticked(state: State, now: float) -> Step:
    """Time has passed: clear what may be cleared by now. Nothing is while the driver is released:
    nobody knows how a GPU is then.
    """
    snapshot = state.snapshot
    if snapshot.release is not None:
        return Step(state)
    recovered = recovery.recover(
        snapshot.ledger,
        snapshot.inventory,
        snapshot.gpu_health,
        now,
        snapshot.settings.quiet_seconds,
        complete=snapshot.driver_error is None and is_complete(snapshot.inventory),
    )
    return Step(
        decide(state, ledger=recovered.ledger),
        cleared_news(recovered),
        look_again=recovered.look_again,
    )


def watched(state: State, failures: Mapping[str, str]) -> Step:
    """Events of all GPUs but these can be watched; these are held down until they can be."""
    reasons = {uuid: Reason(Code.UNWATCHED, text) for uuid, text in failures.items()}
    return Step(decide(state, unwatched=MappingProxyType(reasons)))


def watchable(snapshot: Snapshot) -> tuple[str, ...]:
    """UUIDs of the GPUs whose events should be watched."""
    if not watching(snapshot.settings):
        return ()
    lost = {
        uuid
        for uuid, health in snapshot.gpu_health.items()
        if health.probe is not None and health.probe.lost
    }
    return tuple(gpu.uuid for gpu in snapshot.inventory.gpus if gpu.uuid not in lost)


# ---- the CDI specification


def specified(state: State, specified: Specified) -> Step:
    """The CDI specification was brought up to date, or could not be."""
    return Step(decide(state, specified=specified))


# ---- settings


def configured(
    state: State,
    settings: Settings,
    configuration: Configuration | None = None,
    specified: Specified | None = None,
) -> Step:
    """Decide anew, with other settings, about what was last seen. `specified` is the CDI
    specification that was written for them.
    """
    old = state.snapshot
    state = decide(
        state,
        settings=settings,
        configuration=configuration or old.configuration,
        specified=specified or old.specified,
    )
    return Step(state, rescan=True, probe=True)


def configuration_noted(state: State, configuration: Configuration) -> Step:
    """Something is to be said of the configuration, and the settings stay."""
    return Step(decide(state, configuration=configuration))


# ---- shared by the steps


def is_complete(inventory: Inventory) -> bool:
    """Whether a GPU that a scan does not show is certainly not on the node."""
    return bool(inventory.gpus) and not inventory.unreadable


def _recorded(step: Step, faults: Sequence[Fault], now: float) -> Step:
    """The step with these faults written into the ledger."""
    if not faults:
        return step
    snapshot = step.state.snapshot
    ledger, many = snapshot.ledger, escalation(snapshot.settings)
    for fault in faults:
        ledger = ledgers.record(ledger, fault, snapshot.inventory, now, many)
    state = decide(step.state, ledger=ledger)
    return replace(step, state=state, news=(*step.news, Judged(tuple(faults))))


def escalation(settings: Settings) -> Escalation:
    return Escalation(settings.escalate_count, settings.escalate_seconds)


def cleared_news(recovered: recovery.Recovered) -> tuple[News, ...]:
    return tuple(ReasonCleared(uuid, reason) for uuid, reason in recovered.cleared)


def decide(state: State, **changes: Any) -> State:
    """The state with a snapshot of the next generation that has these fields and what follows from
    them for the advertisement; the same state when nothing is different.
    """
    old = state.snapshot
    if old.generation and all(getattr(old, name) == value for name, value in changes.items()):
        return state
    new = replace(old, generation=old.generation + 1, **changes)
    advertised = advertise(new.inventory, new.settings, _verdicts(new), new.withdrawal)
    new = replace(new, advertisement=advertised)
    return replace(state, snapshot=new)


def _verdicts(snapshot: Snapshot) -> Mapping[str, tuple[Reason, ...]]:
    """Why each device is down: what the ledger holds, and what is wrong just now."""
    found = ledgers.verdicts(snapshot.ledger, snapshot.inventory)
    hanging = {
        gpu.uuid: Reason(Code.NOT_ANSWERING, gpu.error or "")
        for gpu in snapshot.inventory.gpus
        if gpu.hung
    }
    for device in snapshot.inventory.devices():
        unwatched = snapshot.unwatched.get(device.gpu_uuid)
        hung = hanging.get(device.gpu_uuid)
        leaving = snapshot.release is not None and device.gpu_uuid in snapshot.release.gpus
        released = RELEASED if leaving else None
        # One that hangs cannot be watched either.
        withdrawn = snapshot.withdrawal.leaving.get(device.uuid)
        causes = (snapshot.driver_error, released, hung or unwatched, withdrawn)
        now = [reason for reason in causes if reason]
        if now:
            found[device.uuid] = (*found.get(device.uuid, ()), *now)
    for uuid, reason in unspecified(snapshot.specified, snapshot.inventory, snapshot.settings):
        found[uuid] = (*found.get(uuid, ()), reason)
    return found
