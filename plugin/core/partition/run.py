"""The state machine of partitioning: from a plan and what failed so far to what is done next.

Nothing here waits or asks. Each round, the executor asks who uses what, makes a plan for the
:func:`targets`, and does what :func:`assess` says. What becomes of a GPU is folded in by
:func:`ended`. The geometry itself is never remembered: it is the driver's.

Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.inventory.model import Gpu, Inventory, MigMode
from plugin.core.partition.comparison import has
from plugin.core.partition.configuration import Resolved, Wanted
from plugin.core.partition.node import Action, Decision, NodePlan
from plugin.core.partition.tracks import Before, Result, Run, Track, shape
from plugin.core.partition.trouble import Code
from plugin.core.partition.use import UNKNOWN_HOLDER
from plugin.core.partition.withdrawing import leaving, withdrawal

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


class Withdraw(Struct, frozen=True):
    """Publish what no pod may get, and have kubelet know it."""

    withdrawal: Withdrawal


class LookAgain(Struct, frozen=True):
    """Ask once more who uses what."""


class Change(Struct, frozen=True):
    """Carry these out, one after another."""

    decisions: tuple[Decision, ...]


class Rest(Struct, frozen=True):
    """Nothing can be done now. ``until`` is when to try again, ``None`` if nothing waits for time.
    ``waits``: for others to let go of devices.
    """

    until: float | None = None
    waits: bool = False


Next = Withdraw | LookAgain | Change | Rest


def anew(run: Run) -> Run:
    """For another order: what failed is forgotten, but not what is half-made."""
    return Run(half=run.half)


def reopened(run: Run) -> Run:
    """After the driver was away: GPUs may have been reset, which need not show in what they are."""
    tracks = {
        uuid: track
        for uuid, track in run.tracks.items()
        if not (track.ended and track.trouble.code in _LASTING)
    }
    return replace(run, tracks=tracks)


def current(run: Run, inventory: Inventory, wanted: Mapping[str, Wanted], now: float) -> Run:
    """Without what is remembered of GPUs that have changed since, or of which something else is
    wanted; and a GPU that has what it had before is not half-made any more.
    """
    tracks, half = dict(run.tracks), dict(run.half)
    for uuid, before in run.half.items():
        gpu = inventory.gpu(uuid)
        if before.geometry is None and uuid not in wanted:
            del half[uuid]  # there is no way back: what is there stays
        elif gpu is not None and uuid not in wanted and _is_whole(gpu):
            del half[uuid]  # a reset or a reboot took all; MIG mode is switched only for an order
        elif gpu is not None and before.geometry is not None and has(gpu, before.geometry):
            del half[uuid]
            if uuid in tracks and tracks[uuid].back:
                tracks[uuid] = _restored(tracks[uuid], gpu, now)
    for uuid, track in run.tracks.items():
        gpu = inventory.gpu(uuid) if uuid in wanted or uuid in half else None
        changed = gpu is None or (track.ended and shape(gpu) != tracks[uuid].shape)
        if changed or run.wanted.get(uuid) != wanted.get(uuid):
            del tracks[uuid]
    return replace(run, tracks=tracks, half=half, wanted=wanted)


def _is_whole(gpu: Gpu) -> bool:
    """Nothing of MIG is there, nor will be."""
    known = gpu.mig is not None and gpu.mig_unknown is None
    return known and gpu.mig == MigMode(current=False, pending=False) and not gpu.instances


def targets(wanted: Resolved, run: Run) -> tuple[Resolved, Mapping[str, Wanted]]:
    """What GPUs should get now, without those that go back or on which nothing more is tried; and
    what GPUs had that are half-made, for those that go back.
    """
    found = dict(wanted.wanted)
    back = {uuid: each.geometry for uuid, each in run.half.items() if each.geometry is not None}
    for uuid, track in run.tracks.items():
        if track.ended or track.back:
            found.pop(uuid, None)
        if track.ended:
            back.pop(uuid, None)
    return replace(wanted, wanted=found), back


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
    taken effect may have. Nobody knows what a GPU has that does not answer.
    """
    open_ = {*run.tracks, *run.half}
    there = [
        each.gpu for each in plan.of(Action.NOTHING) if each.gpu.uuid in open_ and not each.gpu.hung
    ]
    return ended(run, map(Result, there), {}, now) if there else run


def _waits(decision: Decision) -> bool:
    unknown = any(UNKNOWN_HOLDER in each.holders for each in decision.blockers)
    return unknown or decision.action in {Action.WAIT, Action.EVICT}


def _is_due(run: Run, decision: Decision, now: float) -> bool:
    track = run.tracks.get(decision.gpu.uuid)
    return track is None or (track.retry_at is not None and track.retry_at <= now)


# ---- what became of GPUs


def ended(run: Run, results: Iterable[Result], before: Mapping[str, Before], now: float) -> Run:
    """Fold in what became of GPUs. `before` is what they had when the change began."""
    tracks, half = dict(run.tracks), dict(run.half)
    for result in results:
        uuid = result.gpu.uuid
        was, track = tracks.pop(uuid, None), None
        if result.complete:
            half.pop(uuid, None)
            track = _restored(was, result.gpu, now) if was is not None and was.back else None
        elif result.touched:
            half.setdefault(uuid, before.get(uuid) or Before(None))
        if result.trouble is not None:
            track = _failed(was or Track(result.trouble), result, half.get(uuid), now)
        if track is not None:
            tracks[uuid] = track
    return replace(run, tracks=tracks, half=half, agreed=0)


def _restored(before: Track, gpu: Gpu, now: float) -> Track:
    refused = before.trouble.code is Code.IN_USE
    return Track(
        before.trouble,
        refusals=before.refusals,
        restored=True,
        retry_at=now + _pause(IN_USE_PAUSES, before.refusals) if refused else None,
        shape=shape(gpu),
    )


def _failed(was: Track, result: Result, half: Before | None, now: float) -> Track:
    found = result.trouble or was.trouble
    returns = half is not None and half.geometry is not None
    # Why it is on its way back stays the cause.
    why = was.trouble if was.back else found
    restored = was.restored and half is None
    track = replace(was, trouble=why, restored=restored, shape=shape(result.gpu))
    if found.code is Code.DRIVER_UNAVAILABLE:
        return replace(track, retry_at=now + DRIVER_PAUSE)
    if found.code in _LASTING:
        return replace(track, trouble=found, retry_at=None)
    if found.code is Code.IN_USE and not was.back:
        refusals = was.refusals + 1
        if returns:
            return replace(track, failures=0, refusals=refusals, back=True, retry_at=now)
        later = now + _pause(IN_USE_PAUSES, refusals)
        return replace(track, refusals=refusals, retry_at=later)
    return _tried(track, half, now)


def _tried(track: Track, half: Before | None, now: float) -> Track:
    failures = track.failures + 1
    if failures < TRIES:
        return replace(track, failures=failures, retry_at=now + _pause(PAUSES, failures))
    if not track.back and half is not None and half.geometry is not None:
        return replace(track, failures=0, back=True, retry_at=now)
    return replace(track, failures=failures, restored=half is None, retry_at=None)


def _pause(pauses: Sequence[float], failures: int) -> float:
    return pauses[min(failures, len(pauses)) - 1]
