"""The state machine of partitioning, as tables of values."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core.advertise.advertisement import advertise
from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.holders import Holdings
from plugin.core.inventory.geometry import Client, ClientKind
from plugin.core.inventory.model import Gpu, MigMode, Unknown
from plugin.core.partition import run as runs
from plugin.core.partition import withdrawing
from plugin.core.partition.configuration import Resolved, Wanted
from plugin.core.partition.node import Action, Decision, NodePlan
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import GpuProgress, GpuState, State, gpus, node_state
from plugin.core.partition.run import Change, LookAgain, Rest, Withdraw
from plugin.core.partition.steps import Blocker, Occupant, Plan, RefusalCode, SwitchMode
from plugin.core.partition.tracks import Before, Result, Run, Track
from plugin.core.partition.trouble import Code, Trouble, trouble
from plugin.core.partition.use import HANDED_OUT, UNKNOWN_HOLDER, in_use
from plugin.core.reasons import Code as ReasonCode
from plugin.core.reasons import Reason
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import Holder
from plugin.errors import (
    DeviceInUse,
    DriverCallFailed,
    DriverStale,
    GpuHangs,
    GpuLost,
    NoPermission,
    NotSupported,
    OutcomeUnknown,
    ResetNeeded,
)

from .builders import gpu, mig_gpu, node

FIRST, SECOND = mig_gpu(0, "1g.5gb", "1g.5gb", "2g.10gb"), mig_gpu(1, "1g.5gb")
LEFT, RIGHT, KEPT = (device.uuid for device in FIRST.mig_devices)
WANTED = Wanted.of({"2g.10gb": 2})
PLAN = Plan((SwitchMode(on=True),), seats=(), kept=(KEPT,), leaving=(LEFT, RIGHT))
CHANGE = Decision(FIRST, WANTED, Action.CHANGE, PLAN)
BROKEN = Trouble(Code.STEP_FAILED, "it broke")
USED = Trouble(Code.IN_USE, "a process")
HAD = Before.of(FIRST)
BEFORE = {FIRST.uuid: HAD}
HALF = {FIRST.uuid: HAD}


def plan(*decisions: Decision) -> NodePlan:
    return NodePlan("some", Policy.WAIT, decisions)


def test_what_leaves_is_withdrawn_and_looked_at_twice_before_it_is_changed() -> None:
    run, action = runs.assess(Run(), plan(CHANGE), 0.0)
    assert isinstance(action, Withdraw)
    assert action.withdrawal.leaving.keys() == {LEFT, RIGHT}
    run, action = runs.assess(run, plan(CHANGE), 1.0)
    assert action == LookAgain()
    run, action = runs.assess(run, plan(CHANGE), 2.0)
    assert action == Change((CHANGE,))
    # Somebody got one meanwhile: it waits, and looks begin anew when it is free.
    waiting = replace(CHANGE, action=Action.WAIT)
    run, action = runs.assess(run, plan(waiting), 2.0)
    assert action == Rest(waits=True)


def test_what_destroys_nothing_needs_no_second_look() -> None:
    empty = replace(CHANGE, plan=replace(PLAN, leaving=()))
    assert runs.assess(Run(), plan(empty), 0.0)[1] == Change((empty,))


def test_a_whole_gpu_leaves_service_before_mig_mode_is_switched() -> None:
    off = gpu(3)
    decision = Decision(off, WANTED, Action.CHANGE, Plan((SwitchMode(on=True),)))
    assert withdrawing.leaving(decision) == {off.uuid}


def fold(run: Run, found: Trouble | None, now: float = 10.0, *, touched: bool = True) -> Run:
    return runs.ended(run, [Result(FIRST, found, touched)], BEFORE, now)


def test_three_attempts_then_three_back_then_no_more() -> None:
    run, pauses = Run(), []
    for _ in range(6):
        run = fold(run, BROKEN)
        track = run.tracks[FIRST.uuid]
        pauses.append((track.back, track.retry_at and track.retry_at - 10.0))
    assert pauses == [
        (False, 0.5),
        (False, 2.0),
        (True, 0.0),
        (True, 0.5),
        (True, 2.0),
        (True, None),
    ]
    assert run.tracks[FIRST.uuid].ended
    # What was there before serves on; what was made since does not.
    held = withdrawing.withdrawal(run, plan())
    assert held.changing.keys() == {FIRST.uuid}
    assert held.staying == {LEFT, RIGHT, KEPT}


def test_what_never_took_effect_is_not_on_its_way_back() -> None:
    run = Run()
    for _ in range(3):
        run = fold(run, BROKEN, touched=False)
    track = run.tracks[FIRST.uuid]
    assert (track.restored, track.ended, dict(run.half)) == (True, True, {})
    assert withdrawing.withdrawal(run, plan()) == Withdrawal()


def test_the_way_back_ends_with_the_cause() -> None:
    run = fold(Run({FIRST.uuid: Track(BROKEN, back=True, retry_at=0.0)}, HALF), None)
    back = run.tracks[FIRST.uuid]
    assert (back.restored, back.ended, back.trouble) == (True, True, BROKEN)
    assert withdrawing.withdrawal(run, plan()) == Withdrawal()


@pytest.mark.parametrize(("touched", "back", "pause"), [(True, True, 0.0), (False, False, 30.0)])
def test_something_in_use_goes_back_at_once_and_is_tried_later(
    touched: bool,  # noqa: FBT001
    back: bool,  # noqa: FBT001
    pause: float,
) -> None:
    run = fold(Run(), USED, touched=touched)
    track = run.tracks[FIRST.uuid]
    assert (track.back, track.retry_at) == (back, 10.0 + pause)
    if back:
        waits = fold(run, None).tracks[FIRST.uuid]
        assert (waits.back, waits.restored, waits.retry_at) == (False, True, 40.0)


NAMED = {FIRST.uuid: WANTED, SECOND.uuid: WANTED}


@pytest.mark.parametrize("code", [Code.GPU_LOST, Code.NOT_ANSWERING, Code.RESET_NEEDED])
def test_what_waiting_does_not_mend_is_not_tried_again(code: Code) -> None:
    run = replace(fold(Run(), Trouble(code, "gone")), wanted=NAMED)
    assert run.tracks[FIRST.uuid].ended
    assert runs.targets(Resolved("some", NAMED), run) == (
        Resolved("some", {SECOND.uuid: WANTED}),
        {},
    )
    # Until the GPU itself is another one, or should be.
    less = replace(FIRST, mig_devices=FIRST.mig_devices[1:])
    run = replace(fold(Run(), Trouble(code, "gone"), touched=False), wanted=NAMED)
    other = {**NAMED, FIRST.uuid: Wanted.of({"7g.40gb": 1})}
    for there, wanted, kept in (
        ((FIRST, SECOND), NAMED, True),
        ((less, SECOND), NAMED, False),
        ((replace(FIRST, error="lost"), SECOND), NAMED, False),
        ((SECOND,), NAMED, False),
        ((FIRST, SECOND), other, False),
        ((FIRST, SECOND), {SECOND.uuid: WANTED}, False),
    ):
        assert bool(runs.current(run, node(*there), wanted, 20.0).tracks) is kept


LESS = replace(FIRST, mig_devices=FIRST.mig_devices[1:])


@pytest.mark.parametrize("back", [False, True])
def test_a_gpu_that_is_half_made_can_always_go_back(back: bool) -> None:  # noqa: FBT001
    run = Run({FIRST.uuid: Track(BROKEN, back=back, retry_at=0.0)}, HALF, NAMED)
    target, half = runs.targets(Resolved("some", NAMED), run)
    assert target.wanted == (NAMED if not back else {SECOND.uuid: WANTED})
    assert half == {FIRST.uuid: HAD.geometry}
    # Also when the configuration does not name it.
    unnamed = runs.current(Run(half=HALF), node(LESS, SECOND), {}, 20.0)
    assert runs.targets(Resolved("some", {}), unnamed)[1] == {FIRST.uuid: HAD.geometry}


def test_it_is_half_made_until_it_has_what_it_had_or_should_have() -> None:
    run = Run({FIRST.uuid: Track(BROKEN, back=True, retry_at=0.0)}, HALF, NAMED)
    assert runs.current(run, node(LESS), NAMED, 20.0).half == HALF
    assert runs.current(run, node(replace(FIRST, hung=True)), NAMED, 20.0).half == HALF
    assert runs.current(run, node(SECOND), NAMED, 20.0).half == HALF  # it may come back
    again = runs.current(run, node(FIRST), NAMED, 20.0)
    assert dict(again.half) == {}
    assert again.tracks[FIRST.uuid].restored
    there = replace(CHANGE, action=Action.NOTHING, plan=Plan())
    assert dict(runs.assess(run, plan(there), 5.0)[0].half) == {}
    # A reset took all, and MIG mode is switched only where a configuration asks for it.
    off = MigMode(current=False, pending=False)
    reset = replace(FIRST, mig=off, mig_devices=(), instances=())
    assert dict(runs.current(Run(half=HALF), node(reset), {}, 20.0).half) == {}
    assert runs.current(run, node(reset), NAMED, 20.0).half == HALF
    for unsure in (
        replace(reset, mig=None),
        replace(reset, mig_unknown=Unknown("MIG mode is not known")),
        replace(reset, mig=MigMode(current=False, pending=True)),
    ):
        assert runs.current(Run(half=HALF), node(unsure), {}, 20.0).half == HALF
    # What no configuration can express has no way back.
    unknown = Run(half={FIRST.uuid: Before(None)})
    assert runs.current(unknown, node(LESS), NAMED, 20.0).half == unknown.half
    assert dict(runs.current(unknown, node(LESS), {}, 20.0).half) == {}


def test_another_order_begins_anew_and_hides_what_is_half_made() -> None:
    failed = {FIRST.uuid: Track(BROKEN, 2, back=True, shape=("x",)), SECOND.uuid: Track(BROKEN, 3)}
    run = runs.anew(Run(failed, HALF, NAMED))
    assert run == Run(half=HALF)
    assert withdrawing.withdrawal(run, plan()).staying == {LEFT, RIGHT, KEPT}
    assert withdrawing.withdrawal(run, plan()).changing.keys() == {FIRST.uuid}


@pytest.mark.parametrize("touched", [False, True])
def test_an_interruption_is_no_failure(touched: bool) -> None:  # noqa: FBT001
    result = Result(FIRST, None, touched, interrupted=True)
    run = runs.ended(Run(), [result], BEFORE, 10.0)
    assert dict(run.tracks) == {}
    assert run.half == (HALF if touched else {})


def test_after_the_driver_was_away_what_waits_for_a_reset_is_tried_again() -> None:
    reset = Trouble(Code.RESET_NEEDED, "reset it")
    run = Run({FIRST.uuid: Track(reset, 1), SECOND.uuid: Track(BROKEN, 3)}, HALF, NAMED)
    assert runs.reopened(run) == Run({SECOND.uuid: Track(BROKEN, 3)}, HALF, NAMED)


def test_an_attempt_that_is_not_due_is_waited_for() -> None:
    run = Run({FIRST.uuid: Track(BROKEN, 1, retry_at=7.0)})
    run, _ = runs.assess(run, plan(CHANGE), 5.0)
    assert runs.assess(run, plan(CHANGE), 5.0)[1] == Rest(until=7.0)


def test_what_took_effect_after_all_is_done() -> None:
    run = Run({FIRST.uuid: Track(BROKEN, 1, retry_at=7.0)}, HALF)
    there = replace(CHANGE, action=Action.NOTHING, plan=Plan())
    run, action = runs.assess(run, plan(there), 5.0)
    assert (dict(run.tracks), action) == ({}, Rest())


# ---- what is shown


@pytest.mark.parametrize(
    ("action", "track", "state"),
    [
        (Action.WAIT, Track(BROKEN, 1, retry_at=7.0), GpuState.WAITING),
        (Action.EVICT, Track(BROKEN, 1, retry_at=7.0), GpuState.WAITING),
        (Action.RESET, Track(BROKEN, 1, retry_at=7.0), GpuState.RESET_NEEDED),
        (Action.HELD, Track(BROKEN, 1, retry_at=7.0), GpuState.HELD),
        (Action.CHANGE, Track(BROKEN, 1, retry_at=7.0), GpuState.RETRYING),
        (Action.NOTHING, Track(BROKEN, restored=True), GpuState.ROLLED_BACK),
        (Action.CHANGE, None, GpuState.PENDING),
    ],
)
def test_what_a_gpu_waits_for_counts_more_than_what_failed(
    action: Action, track: Track | None, state: GpuState
) -> None:
    decision = replace(CHANGE, action=action, code=RefusalCode.IN_USE, text="because")
    tracks = {FIRST.uuid: track} if track is not None else {}
    (found,) = gpus(plan(decision), Run(tracks), {FIRST.uuid: WANTED}, {FIRST.uuid: 0})
    assert found.state is state
    if state in {GpuState.WAITING, GpuState.RESET_NEEDED, GpuState.HELD}:
        assert found.trouble is not None
        assert found.trouble.text == "because"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DeviceInUse("x", code=19), Code.IN_USE),
        (ResetNeeded("x", code=16), Code.RESET_NEEDED),
        (GpuLost("x", code=15), Code.GPU_LOST),
        (GpuHangs("x", code=-1), Code.NOT_ANSWERING),
        (NoPermission("x", code=4), Code.NO_PERMISSION),
        (NotSupported("x", code=3), Code.NOT_SUPPORTED),
        (DriverStale("x"), Code.DRIVER_UNAVAILABLE),
        (OutcomeUnknown("x", code=-1), Code.STEP_FAILED),
        (DriverCallFailed("x", code=999), Code.STEP_FAILED),
    ],
)
def test_every_error_has_a_code(error: DriverCallFailed, code: Code) -> None:
    assert trouble(error).code is code


# ---- who uses what


def test_pods_processes_and_what_was_handed_out() -> None:
    holders = {LEFT: (Holder("ml", "one", "main"),), f"{RIGHT}::1": (Holder("ml", "two", "x"),)}
    known = Holdings(holders, {KEPT: 1.0}, confirmed=0.0, trusted=True)
    device = FIRST.mig_devices[0]
    other = SECOND.mig_devices[0]
    clients = {
        FIRST.uuid: (Client(7, ClientKind.COMPUTE, device.gi, device.ci),),
        SECOND.uuid: (
            Client(8, ClientKind.COMPUTE),
            Client(9, ClientKind.MPS, other.gi),
        ),
    }
    assert in_use(node(FIRST, SECOND), known, clients) == {
        LEFT: (Occupant("ml/one", pod=True),),
        RIGHT: (Occupant("ml/two", pod=True),),
        KEPT: (HANDED_OUT,),
        SECOND.uuid: (Occupant("process 8"),),
        other.uuid: (Occupant("process 9"),),
    }


@pytest.mark.parametrize("known", [Holdings(), Holdings(confirmed=0.0, trusted=True, silent=True)])
def test_unknown_is_not_free(known: Holdings) -> None:
    found = in_use(node(FIRST), known, {})
    assert found == dict.fromkeys([FIRST.uuid, LEFT, RIGHT, KEPT], (UNKNOWN_HOLDER,))
    assert in_use(node(FIRST), None, {}) == {}


# ---- what is advertised


def listed(withdrawal: Withdrawal, *gpus: Gpu, strategy: MigStrategy) -> dict[str, bool]:
    settings = Settings(mig_strategy=strategy)
    found = advertise(node(*gpus), settings, {}, withdrawal)
    return {item.id: item.healthy for items in found.resources.values() for item in items}


@pytest.mark.parametrize("strategy", [MigStrategy.MIXED, MigStrategy.SINGLE])
def test_of_a_gpu_that_changes_only_what_stays_is_listed(strategy: MigStrategy) -> None:
    first = mig_gpu(0, "1g.5gb", "1g.5gb")
    stays, made = (device.uuid for device in first.mig_devices)
    why = Reason(ReasonCode.PARTITIONING, "it changes")
    held = Withdrawal({}, {first.uuid: why}, frozenset({stays}))
    expected = {stays: True, SECOND.mig_devices[0].uuid: True}
    assert listed(held, first, SECOND, strategy=strategy) == expected
    found = advertise(node(first, SECOND), Settings(mig_strategy=strategy), {}, held)
    assert found.withheld == {first.uuid: why, made: why}
    assert found.problems == ()


def test_a_whole_gpu_that_changes_is_not_listed() -> None:
    why = Reason(ReasonCode.PARTITIONING, "it changes")
    held = Withdrawal({}, {"GPU-0": why})
    assert listed(held, gpu(0), gpu(1), strategy=MigStrategy.NONE) == {"GPU-1": True}


# ---- the node's state


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("", State.SUCCESS),
        ("applied applied", State.SUCCESS),
        ("applied pending", State.APPLYING),
        ("waiting applying", State.APPLYING),
        ("failed rolling-back", State.APPLYING),
        ("failed waiting", State.WAITING),
        ("rolled-back retrying", State.WAITING),
        ("applied failed", State.FAILED),
        ("reset-needed rolled-back", State.FAILED),
        ("held refused", State.FAILED),
        ("applied reset-needed", State.RESET_NEEDED),
    ],
)
def test_the_nodes_state_is_that_of_what_may_still_happen(states: str, expected: State) -> None:
    found = (GpuProgress(name, 0, GpuState(name)) for name in states.split())
    assert node_state(tuple(found)) is expected


def test_who_is_not_known_is_waited_for_under_refuse_too() -> None:
    blocked = replace(
        CHANGE,
        action=Action.REFUSED,
        blockers=(Blocker(LEFT, "0:0", (UNKNOWN_HOLDER,)),),
    )
    assert runs.assess(Run(), plan(blocked), 0.0)[1] == Rest(waits=True)
