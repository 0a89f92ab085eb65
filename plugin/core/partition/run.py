"""The state machine of partitioning: from a plan and what failed so far to what is done next.

Nothing here waits or asks. Each round, the executor asks who uses what, makes a plan for the
:func:`targets`, and does what :func:`assess` says. What becomes of a GPU is folded in by
:func:`ended`. The geometry itself is never remembered: it is the driver's.

Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from plugin.core.advertise.withdrawal import NO_WITHDRAWAL, Withdrawal
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.partition.configuration import Resolved, Wanted
from plugin.core.partition.node import Action, Decision, NodePlan
from plugin.core.partition.steps import Plan, SwitchMode
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.partition.use import UNKNOWN_HOLDER
from plugin.core.reasons import Code as ReasonCode
from plugin.core.reasons import Reason

#: So many rounds in a row must find that nobody uses what is to be destroyed.
AGREEING = 2
#: Attempts at a geometry, and the pauses between them.
TRIES = 3
PAUSES = (0.5, 2.0)
#: Pauses after the driver said that a device is in use of which no user is known.
IN_USE_PAUSES = (30.0, 60.0, 120.0, 300.0)
#: While the driver as a whole does not answer.
DRIVER_PAUSE = 5.0

#: What a further attempt does not change; a change of the GPU itself may.
_LASTING = frozenset({Code.GPU_LOST, Code.NOT_ANSWERING, Code.RESET_NEEDED})

#: What distinguishes a GPU from what it was when partitioning it failed.
_Shape = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Track:
    """A GPU on which something failed.

    ``failures`` counts the attempts at one geometry, ``refusals`` how often the driver said that
    something is in use. ``back``: it is on its way to the last good geometry; ``restored``: it has
    that again. ``half``: it has neither, and ``old`` are its devices from before the first step.
    ``retry_at`` is ``None`` when nothing more is tried until the GPU itself changes from ``shape``.
    """

    trouble: Trouble
    failures: int = 0
    refusals: int = 0
    back: bool = False
    restored: bool = False
    half: bool = False
    old: frozenset[str] = frozenset()
    retry_at: float | None = None
    shape: _Shape = ()

    @property
    def ended(self) -> bool:
        return self.retry_at is None


@dataclass(frozen=True, slots=True)
class Run:
    """What is remembered between two rounds. ``withdrawal`` is what is published, ``agreed`` counts
    the rounds since then.
    """

    tracks: Mapping[str, Track] = field(default_factory=lambda: MappingProxyType({}))
    withdrawal: Withdrawal = NO_WITHDRAWAL
    agreed: int = 0


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Publish what no pod may get, and have kubelet know it."""

    withdrawal: Withdrawal


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Ask once more who uses what."""


@dataclass(frozen=True, slots=True)
class Change:
    """Carry these out, one after another."""

    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing can be done now. ``until`` is when to try again, ``None`` if nothing waits for time.
    ``waits``: for others to let go of devices.
    """

    until: float | None = None
    waits: bool = False


Next = Withdraw | LookAgain | Change | Rest


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a GPU: ``trouble`` is ``None`` if it has its geometry. ``old`` are the devices
    from before the first step; ``touched``: at least one step took effect.
    """

    gpu: Gpu
    old: frozenset[str] = frozenset()
    trouble: Trouble | None = None
    touched: bool = False


def shape(gpu: Gpu) -> _Shape:
    devices = tuple((device.uuid, device.error is None) for device in gpu.mig_devices)
    return devices, gpu.instances, gpu.mig, gpu.hung, gpu.error is None


def anew(run: Run, now: float) -> Run:
    """For another order: what failed is forgotten, but for what is half-made."""
    half = {uuid: track for uuid, track in run.tracks.items() if track.half}
    return Run(
        {
            uuid: Track(track.trouble, half=True, old=track.old, retry_at=now)
            for uuid, track in half.items()
        }
    )


def reopened(run: Run, now: float) -> Run:
    """After the driver was away: GPUs may have been reset, which need not show in what they are."""
    tracks = dict(run.tracks)
    for uuid, track in run.tracks.items():
        if track.ended and track.trouble.code in _LASTING:
            if track.half:
                tracks[uuid] = replace(track, retry_at=now)
            else:
                del tracks[uuid]
    return replace(run, tracks=tracks)


def current(run: Run, inventory: Inventory, named: Container[str]) -> Run:
    """Without what is remembered of GPUs that have changed since, or are named no more."""
    tracks = {}
    for uuid, track in run.tracks.items():
        gpu = inventory.gpu(uuid) if uuid in named else None
        if gpu is not None and not (track.ended and shape(gpu) != track.shape):
            tracks[uuid] = track
    return run if len(tracks) == len(run.tracks) else replace(run, tracks=tracks)


def targets(wanted: Resolved, run: Run, good: Mapping[str, Wanted]) -> Resolved:
    """What each GPU should get now: what is wanted, or its last good geometry; GPUs on which
    nothing more is tried are left out.
    """
    found = dict(wanted.wanted)
    for uuid, track in run.tracks.items():
        if uuid not in found:
            continue
        if track.ended:
            del found[uuid]
        elif track.back:
            found[uuid] = good.get(uuid, found[uuid])
    return replace(wanted, wanted=found)


def assess(run: Run, plan: NodePlan, now: float) -> tuple[Run, Next]:
    """What to do next."""
    run = _arrived(run, plan, now)
    needed = withdrawal(run, plan)
    if needed != run.withdrawal:
        return replace(run, withdrawal=needed, agreed=0), Withdraw(needed)
    ready = [each for each in plan.of(Action.CHANGE) if _is_due(run, each, now)]
    if not ready:
        later = (run.tracks[each.gpu.uuid].retry_at for each in plan.of(Action.CHANGE))
        waits = any(map(_waits, plan.decisions))
        return run, Rest(min((at for at in later if at is not None), default=None), waits)
    agreed = run.agreed + 1
    if agreed < AGREEING and any(leaving(each) for each in ready):
        return replace(run, agreed=agreed), LookAgain()
    return run, Change(tuple(ready))


def _arrived(run: Run, plan: NodePlan, now: float) -> Run:
    """Without what failed on GPUs that have their geometry all the same: what was not known to have
    taken effect may have.
    """
    there = [each.gpu for each in plan.of(Action.NOTHING) if each.gpu.uuid in run.tracks]
    return ended(run, map(Result, there), {}, now) if there else run


def _waits(decision: Decision) -> bool:
    unknown = any(UNKNOWN_HOLDER in each.holders for each in decision.blockers)
    return unknown or decision.action in {Action.WAIT, Action.EVICT}


def _is_due(run: Run, decision: Decision, now: float) -> bool:
    track = run.tracks.get(decision.gpu.uuid)
    return track is None or (track.retry_at is not None and track.retry_at <= now)


# ---- what no pod may get


def leaving(decision: Decision) -> frozenset[str]:
    """UUIDs of what a pod could hold and will be no more."""
    plan = decision.plan
    if plan is None:
        return frozenset()
    whole = not decision.gpu.mig_enabled and switches(plan)
    return frozenset(plan.leaving) | (frozenset({decision.gpu.uuid}) if whole else frozenset())


def switches(plan: Plan) -> bool:
    return any(isinstance(step, SwitchMode) for step in plan.steps)


def withdrawal(run: Run, plan: NodePlan, done: Container[str] = ()) -> Withdrawal:
    """Between the changes: what will be destroyed, now or when it is free; and what was made and is
    not complete. The plan does not count for the GPUs in `done`.
    """
    out: dict[str, Reason] = {}
    changing: dict[str, Reason] = {}
    for each in plan.decisions:
        if each.gpu.uuid in done:
            continue
        if each.action in {Action.CHANGE, Action.WAIT, Action.EVICT}:
            reason = _reason(f"it makes room for {plan.name}")
            out.update(dict.fromkeys(sorted(leaving(each)), reason))
        elif each.action is Action.RESET:
            changing[each.gpu.uuid] = _reason(each.text)
    staying: set[str] = set()
    for uuid, track in run.tracks.items():
        if track.half:
            changing[uuid] = _reason(track.trouble.text)
            staying |= track.old - out.keys()
    return Withdrawal(out, changing, frozenset(staying))


def meanwhile(
    run: Run, plan: NodePlan, going: Iterable[Decision], done: Container[str]
) -> Withdrawal:
    """While the GPUs in `going` are changed: nothing of them but what was in service and stays."""
    before = withdrawal(run, plan, done)
    changing, staying = dict(before.changing), set(before.staying)
    for each in going:
        uuid = each.gpu.uuid
        changing[uuid] = _reason(f"{plan.name} is being applied")
        track = run.tracks.get(uuid)
        if each.plan is not None and not (track is not None and track.half):
            staying.update(each.plan.kept)
    return Withdrawal(before.leaving, changing, frozenset(staying))


def _reason(text: str) -> Reason:
    return Reason(ReasonCode.PARTITIONING, text)


# ---- what became of GPUs


def ended(run: Run, results: Iterable[Result], good: Mapping[str, Wanted], now: float) -> Run:
    """Fold in what became of GPUs."""
    tracks = dict(run.tracks)
    for result in results:
        uuid = result.gpu.uuid
        before, found = tracks.get(uuid), result.trouble
        if found is None:
            track = _done(before, result.gpu, now)
        else:
            track = _failed(before, result, found, has_good=uuid in good, now=now)
        if track is None:
            tracks.pop(uuid, None)
        else:
            tracks[uuid] = track
    return replace(run, tracks=tracks, agreed=0)


def _done(before: Track | None, gpu: Gpu, now: float) -> Track | None:
    if before is None or not before.back:
        return None
    refused = before.trouble.code is Code.IN_USE
    return Track(
        before.trouble,
        refusals=before.refusals,
        restored=True,
        retry_at=now + _pause(IN_USE_PAUSES, before.refusals) if refused else None,
        shape=shape(gpu),
    )


def _failed(
    before: Track | None, result: Result, found: Trouble, *, has_good: bool, now: float
) -> Track:
    was = before or Track(found)
    half = was.half or result.touched
    track = replace(
        was,
        # Why it is on its way back stays the cause.
        trouble=was.trouble if was.back else found,
        restored=was.restored and not half,
        half=half,
        old=was.old if was.half else result.old,
        shape=shape(result.gpu),
    )
    if found.code is Code.DRIVER_UNAVAILABLE:
        return replace(track, retry_at=now + DRIVER_PAUSE)
    if found.code in _LASTING:
        return replace(track, trouble=found, retry_at=None)
    if found.code is Code.IN_USE and not was.back:
        refusals = was.refusals + 1
        if half and has_good:
            return replace(track, failures=0, refusals=refusals, back=True, retry_at=now)
        later = now + _pause(IN_USE_PAUSES, refusals)
        return replace(track, refusals=refusals, retry_at=later)
    return _tried(track, has_good=has_good, now=now)


def _tried(track: Track, *, has_good: bool, now: float) -> Track:
    failures = track.failures + 1
    if failures < TRIES:
        return replace(track, failures=failures, retry_at=now + _pause(PAUSES, failures))
    if has_good and not track.back:
        return replace(track, failures=0, back=True, retry_at=now)
    return replace(track, failures=failures, retry_at=None)


def _pause(pauses: Sequence[float], failures: int) -> float:
    return pauses[min(failures, len(pauses)) - 1]
