"""The steps of the state: a state and an input go in, a state, news and requests come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.health.events import DriverEvent, Probe
from plugin.core.health.faults import Severity
from plugin.core.health.recovery import ABSENT_SECONDS
from plugin.core.inventory.model import Inventory
from plugin.core.news import Command, Commanded, Judged, ReasonCleared, UnknownInstance
from plugin.core.reasons import Code, Reason
from plugin.core.settings import HealthChecks, MigStrategy, Settings
from plugin.core.state import State

from .builders import gpu, mig_device, node
from .state_steps import (
    ANEW,
    CHANGED,
    FIRST,
    LEFT,
    MIXED,
    NODE,
    ON_FIRST,
    ON_LEFT,
    ON_NOTHING,
    ON_OTHER,
    ON_RIGHT,
    OTHER,
    REMADE,
    RIGHT,
    SECOND,
    WELL,
    down,
    requests,
    running,
    scanned,
)

# ---- events


@pytest.mark.parametrize(
    ("events", "out", "asked"),
    [
        pytest.param([], {}, set(), id="none"),
        pytest.param([ON_LEFT], {LEFT.uuid: ("xid-95",)}, {"probe"}, id="of a device"),
        pytest.param(
            [ON_FIRST],
            {LEFT.uuid: ("xid-79",), RIGHT.uuid: ("xid-79",)},
            {"probe"},
            id="of a GPU",
        ),
        pytest.param(
            [ON_LEFT, ON_OTHER, ON_FIRST],
            {
                LEFT.uuid: ("xid-95", "xid-79"),
                RIGHT.uuid: ("xid-79",),
                OTHER.uuid: ("xid-95",),
            },
            {"probe"},
            id="several",
        ),
        pytest.param([ON_NOTHING], {}, {"probe", "rescan"}, id="of an unknown instance"),
        pytest.param([replace(ON_LEFT, gpu_uuid="GPU-9")], {}, {"probe"}, id="of an unknown GPU"),
        pytest.param([CHANGED], {}, {"rescan"}, id="a configuration"),
        pytest.param([CHANGED, ON_LEFT], {}, {"rescan", "probe"}, id="deferred"),
        pytest.param(
            [ON_LEFT, CHANGED], {LEFT.uuid: ("xid-95",)}, {"rescan", "probe"}, id="just before"
        ),
        pytest.param(
            [CHANGED, ON_OTHER],
            {OTHER.uuid: ("xid-95",)},
            {"rescan", "probe"},
            id="of another GPU",
        ),
        pytest.param(
            [CHANGED, ON_FIRST],
            {LEFT.uuid: ("xid-79",), RIGHT.uuid: ("xid-79",)},
            {"rescan", "probe"},
            id="of the whole GPU",
        ),
    ],
)
def test_events(
    events: Sequence[DriverEvent], out: dict[str, tuple[str, ...]], asked: set[str]
) -> None:
    before = running()
    step = steps.happened(before, events, 5.0)
    assert down(step.state) == out
    assert requests(step) == asked
    assert step.state.snapshot.generation - before.snapshot.generation == bool(out) or (
        ON_NOTHING in events
    )


def test_events_that_cannot_be_deferred_any_more_count_for_their_gpu() -> None:
    waiting = steps.happened(running(), [CHANGED, *[ON_LEFT] * steps.MOST_DEFERRED], 5.0).state
    step = steps.happened(waiting, [ON_LEFT, ON_RIGHT], 6.0)
    assert step.state.deferred == waiting.deferred
    assert step.state.snapshot.ledger[FIRST.uuid].xids == {95: 2}
    assert down(step.state) == {}


def test_a_fault_of_an_unknown_instance_is_counted_for_the_gpu() -> None:
    step = steps.happened(running(), [ON_NOTHING], 5.0)
    unknown, judged = step.news
    assert unknown == UnknownInstance(ON_NOTHING)
    assert isinstance(judged, Judged)
    assert [(fault.targets, fault.severity) for fault in judged.faults] == [
        ((FIRST.uuid,), Severity.COUNTED)
    ]
    assert step.state.snapshot.ledger[FIRST.uuid].xids == {95: 1}


_Move = Callable[[State], State]


def happens(*events: DriverEvent) -> _Move:
    return lambda state: steps.happened(state, events, 5.0).state


def ends(scan: Inventory = NODE) -> _Move:
    return lambda state: scans.scan_ended(state, scan, 6.0).state


def fails(state: State) -> State:
    return scans.scan_failed(state, scans.driver_unavailable("away")).state


begins: _Move = scans.scan_begun
UNREADABLE = node(gpu(0, error="no answer"), SECOND)


@pytest.mark.parametrize(
    ("moves", "out"),
    [
        pytest.param([happens(CHANGED, ON_LEFT), begins], set(), id="waits for the scan"),
        pytest.param(
            [happens(CHANGED), begins, happens(ON_LEFT)], set(), id="waits for the scan under way"
        ),
        pytest.param(
            [happens(CHANGED, ON_LEFT), begins, ends(REMADE)], {ANEW.uuid}, id="the new instance"
        ),
        pytest.param(
            [happens(CHANGED), begins, happens(ON_LEFT), ends(REMADE)],
            {ANEW.uuid},
            id="the new instance, in the middle of the scan",
        ),
        pytest.param(
            [happens(CHANGED, ON_RIGHT), begins, ends(REMADE)], {RIGHT.uuid}, id="an old instance"
        ),
        pytest.param(
            [begins, happens(CHANGED, ON_LEFT), ends()],
            set(),
            id="a scan that began before the change shows nothing",
        ),
        pytest.param(
            [begins, happens(CHANGED, ON_LEFT), ends(), begins, ends(REMADE)],
            {ANEW.uuid},
            id="the next one does",
        ),
        pytest.param(
            [happens(CHANGED), begins, happens(CHANGED, ON_LEFT), ends()],
            set(),
            id="changed again in the middle",
        ),
        pytest.param(
            [happens(CHANGED, ON_LEFT), begins, fails, begins, ends(REMADE)],
            {ANEW.uuid},
            id="a scan that fails shows nothing",
        ),
        pytest.param(
            [happens(CHANGED), begins, fails, happens(ON_LEFT), begins, ends(REMADE)],
            {ANEW.uuid},
            id="after a scan that failed",
        ),
        pytest.param(
            [happens(CHANGED, ON_LEFT), begins, ends(UNREADABLE), begins, ends(REMADE)],
            {ANEW.uuid},
            id="a scan that cannot read the GPU shows nothing",
        ),
        pytest.param(
            [happens(CHANGED, ON_LEFT), begins, ends(), happens(ON_RIGHT)],
            {LEFT.uuid, RIGHT.uuid},
            id="then at once again",
        ),
    ],
)
def test_events_of_reused_instance_ids(moves: Sequence[_Move], out: set[str]) -> None:
    state = running()
    for move in moves:
        state = move(state)
    assert {uuid for uuid, codes in down(state).items() if "xid-95" in codes} == out


def test_disabled_checks_judge_nothing() -> None:
    state = running(dataclasses.replace(MIXED, disable_healthchecks=HealthChecks(all=True)))
    assert down(steps.happened(state, [ON_LEFT, ON_FIRST], 5.0).state) == {}
    assert steps.watchable(state.snapshot) == ()


# ---- probes and time


def test_a_lost_gpu_is_told_once_and_looked_at_again_when_it_comes_and_goes() -> None:
    lost = Probe(FIRST.uuid, error="it is lost", lost=True)
    first = steps.probed(running(), [lost], 5.0)
    assert requests(first) == {"rescan"}
    assert down(first.state) == dict.fromkeys((LEFT.uuid, RIGHT.uuid), (Code.GPU_LOST,))
    assert steps.watchable(first.state.snapshot) == (SECOND.uuid,)
    again = steps.probed(first.state, [lost], 6.0)
    assert (again.news, requests(again)) == ((), set())
    back = steps.probed(again.state, WELL, 7.0)
    assert requests(back) == {"rescan"}
    assert steps.watchable(back.state.snapshot) == (FIRST.uuid, SECOND.uuid)


NVLINK = replace(ON_FIRST, data=144)
SILENT = [replace(probe, recovery_action=None) for probe in WELL]


@pytest.mark.parametrize(
    ("probes", "codes", "waits"),
    [
        pytest.param(WELL, (), False, id="the driver asks for nothing"),
        pytest.param(
            [replace(WELL[0], recovery_action=1)],
            (Code.RECOVERY_ACTION,),
            False,
            id="the driver asks for a reset",
        ),
        pytest.param(SILENT, (), True, id="it could not be asked this once"),
        pytest.param([replace(SILENT[0], error="busy")], (), True, id="the GPU could not be asked"),
        pytest.param(WELL[1:], (), True, id="another GPU was asked"),
        pytest.param([*SILENT, *SILENT], ("xid-144",), False, id="the driver has no such thing"),
    ],
)
def test_the_recovery_action_decides_about_some_faults(
    probes: Sequence[Probe],
    codes: tuple[str, ...],
    waits: bool,  # noqa: FBT001
) -> None:
    hit = steps.happened(running(), [NVLINK, NVLINK], 5.0)
    assert (down(hit.state), requests(hit)) == ({}, {"probe"})
    state = hit.state
    for probe in probes:
        state = steps.probed(state, [probe], 6.0).state
    assert down(state) == (dict.fromkeys((LEFT.uuid, RIGHT.uuid), codes) if codes else {})
    assert bool(state.undecided) is waits
    assert state.snapshot.ledger[FIRST.uuid].xids == {144: 2}


def test_such_a_fault_ends_with_what_it_concerned() -> None:
    on_left = replace(NVLINK, gi=LEFT.gi, ci=LEFT.ci)
    hit = steps.happened(running(), [on_left], 5.0).state
    remade = scanned(steps.happened(hit, [CHANGED], 5.0).state, REMADE, 6.0).state
    state = steps.probed(steps.probed(remade, SILENT, 7.0).state, SILENT, 7.0).state
    assert (down(state), state.undecided) == ({}, ())
    gone = scanned(hit, node(SECOND), 6.0).state
    assert steps.probed(gone, WELL[1:], 7.0).state.undecided == ()


def test_probes_that_find_nothing_change_nothing() -> None:
    before = running()
    assert steps.probed(before, WELL, 5.0).state.snapshot is before.snapshot


def test_time_clears_what_its_rule_allows() -> None:
    hit = steps.happened(running(), [ON_LEFT], 10.0).state
    early = steps.ticked(hit, 11.0)
    assert (early.look_again, early.news) == (70.0, ())
    assert early.state.snapshot is hit.snapshot
    due = steps.ticked(hit, 70.0)
    (news,) = due.news
    assert isinstance(news, ReasonCleared)
    assert (news.uuid, news.reason.code) == (LEFT.uuid, "xid-95")
    assert (down(due.state), due.look_again) == ({}, None)


def test_absence_is_certain_only_with_a_driver_that_answers() -> None:
    hit = steps.happened(running(), [ON_OTHER], 10.0).state
    gone = scanned(hit, node(FIRST), 20.0).state
    failed = scans.scan_failed(gone, scans.driver_unavailable("away")).state
    late = 20.0 + ABSENT_SECONDS
    assert OTHER.uuid in steps.ticked(failed, late).state.snapshot.ledger
    assert OTHER.uuid not in steps.ticked(gone, late).state.snapshot.ledger
    unread = scanned(hit, replace(node(FIRST), unreadable={3: "no UUID"}), 20.0).state
    assert unread.snapshot.ledger[OTHER.uuid].absent_since is None


def test_a_gpu_that_cannot_be_watched_is_down_until_it_can() -> None:
    state = steps.watched(running(), {SECOND.uuid: "no events"}).state
    assert state.snapshot.unwatched == {SECOND.uuid: Reason(Code.UNWATCHED, "no events")}
    assert down(state) == {OTHER.uuid: (Code.UNWATCHED,)}
    assert down(steps.watched(state, {}).state) == {}


# ---- operators


def test_cordon_and_uncordon() -> None:
    step = operators.cordoned(running(), FIRST.uuid, 5.0)
    assert down(step.state) == dict.fromkeys((LEFT.uuid, RIGHT.uuid), (Code.CORDONED,))
    assert step.news == (Commanded(Command.CORDON, FIRST.uuid),)
    again = operators.cordoned(step.state, FIRST.uuid, 6.0)
    assert again.state.snapshot is step.state.snapshot
    back = operators.uncordoned(step.state, FIRST.uuid)
    assert (down(back.state), back.news) == ({}, (Commanded(Command.UNCORDON, FIRST.uuid),))


def test_clearing_keeps_what_the_gpu_itself_says() -> None:
    hit = steps.happened(running(), [ON_FIRST], 5.0).state
    asked = steps.probed(hit, [replace(WELL[0], recovery_action=1)], 5.0).state
    assert down(asked)[LEFT.uuid] == ("xid-79", Code.RECOVERY_ACTION)
    step = operators.cleared(asked, FIRST.uuid, 6.0)
    assert down(step.state)[LEFT.uuid] == (Code.RECOVERY_ACTION,)
    assert (step.news, requests(step)) == ((Commanded(Command.CLEAR, FIRST.uuid),), {"probe"})


def test_other_settings_decide_anew_and_have_everything_asked_again() -> None:
    step = steps.configured(running(), Settings(mig_strategy=MigStrategy.NONE))
    assert step.state.snapshot.advertisement.resources.keys() == {"nvidia.com/gpu"}
    assert requests(step) == {"rescan", "probe"}


def test_a_device_with_a_missing_node_is_down_though_nothing_happened() -> None:
    broken = gpu(0, mig_device(0, 0, missing_device_nodes=("/dev/nvidia0",)))
    assert down(running(scan=node(broken))) == {LEFT.uuid: (Code.MISSING_NODE,)}
