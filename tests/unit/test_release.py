"""A release of the driver, step by step."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.health.timeline import Moment
from plugin.core.news import ReleaseDone, ReleaseOver
from plugin.core.reasons import Code
from plugin.core.release import Phase, Release, describe
from plugin.core.state import State
from plugin.core.status import document

from .builders import node
from .state_steps import (
    FIRST,
    LEFT,
    NODE,
    ON_LEFT,
    OTHER,
    RIGHT,
    SECOND,
    WELL,
    down,
    requests,
    running,
    scanned,
)

ON_GPU = {LEFT.uuid: ("released",), RIGHT.uuid: ("released",)}
#: Its instances are gone, as after a reset.
BARE = node(replace(FIRST, mig_devices=()), SECOND)


def released(state: State, now: float = 100.0, seconds: float = 300.0) -> State:
    return operators.released(state, {FIRST.uuid}, now, seconds).state


def let_go(state: State) -> State:
    return operators.let_go(state, ()).state


def test_devices_keep_their_place_and_only_those_of_its_gpus_are_down() -> None:
    before = running()
    state = let_go(released(before))
    listed = state.snapshot.advertisement.resources
    ids = {name: [item.id for item in items] for name, items in listed.items()}
    assert ids == {
        name: [item.id for item in items]
        for name, items in before.snapshot.advertisement.resources.items()
    }
    assert down(state) == ON_GPU


def test_it_is_released_only_when_nothing_is_left() -> None:
    state = released(running())
    stuck = operators.let_go(state, ("GPU 3 hangs",))
    assert stuck.news == (ReleaseDone(("GPU 3 hangs",)),)
    release = stuck.state.snapshot.release
    assert release is not None
    assert (release.phase, release.left) == (Phase.LEAVING, ("GPU 3 hangs",))
    # Tried again in vain: nothing is new.
    again = operators.let_go(stuck.state, ("GPU 3 hangs",))
    assert (again.news, again.state) == ((), stuck.state)
    done = operators.let_go(again.state, ())
    assert done.news == (ReleaseDone(()),)
    assert done.state.snapshot.release == replace(release, phase=Phase.RELEASED, left=())


def test_asked_for_again_it_lasts_longer_for_all_gpus_and_is_looked_at_again() -> None:
    state = let_go(released(running()))
    step = operators.released(state, {SECOND.uuid}, 200.0, 60.0)
    both = frozenset({FIRST.uuid, SECOND.uuid})
    assert step.state.snapshot.release == Release(both, 260.0)
    assert requests(step) == {"rescan"}
    assert down(step.state).keys() == {LEFT.uuid, RIGHT.uuid, OTHER.uuid}


def test_after_it_the_devices_are_down_until_a_scan_and_that_is_believed() -> None:
    step = operators.resumed(let_go(released(running())))
    assert step.news == (ReleaseOver(expired=False),)
    assert requests(step) == {"rescan", "probe"}
    assert down(step.state) == ON_GPU
    # One scan is enough to believe that the instances are gone.
    after = scanned(step.state, BARE).state
    assert after.snapshot.release is None
    assert {d.uuid for d in after.snapshot.inventory.devices()} == {
        FIRST.uuid,
        SECOND.uuid,
        OTHER.uuid,
    }
    assert down(after) == {}


def test_a_driver_that_does_not_come_back_is_unavailable() -> None:
    state = operators.resumed(let_go(released(running()))).state
    state = scans.scan_failed(state, scans.driver_unavailable("not loaded")).state
    assert state.snapshot.release is None
    assert set(down(state).values()) == {("driver-unavailable",)}


def test_a_scan_that_was_under_way_ends_no_release() -> None:
    state = released(scans.scan_begun(running()))
    state = scans.scan_ended(state, NODE, 101.0).state
    assert down(state) == ON_GPU
    failed = scans.scan_failed(scans.scan_begun(state), scans.driver_unavailable("x")).state
    assert failed.snapshot.release is not None


def test_without_one_there_is_nothing_to_end() -> None:
    state = running()
    assert operators.resumed(state).state == state
    assert operators.let_go(state, ("x",)).state == state
    twice = operators.resumed(released(state)).state
    assert operators.resumed(twice) == steps.Step(twice)


def test_no_fault_clears_meanwhile_and_its_quiet_period_begins_again_after_it() -> None:
    quiet = running().snapshot.settings.quiet_seconds
    state = steps.happened(running(), [ON_LEFT], 10.0).state
    state = let_go(released(state, 20.0, 3600.0))
    late = 20.0 + 2 * quiet
    assert steps.ticked(state, late) == steps.Step(state)
    state = scanned(operators.resumed(state).state, NODE, late).state
    assert LEFT.uuid in down(state)
    state = steps.probed(state, WELL, late).state
    assert LEFT.uuid in down(steps.ticked(state, late + quiet - 1).state)
    assert down(steps.ticked(state, late + quiet).state) == {}


def test_its_end_moves_with_the_wall_clock() -> None:
    state = released(running())
    moved = steps.clocks_read(state, Moment(wall=5_000.0, monotonic=0.0)).state
    assert moved.snapshot.release == Release(frozenset({FIRST.uuid}), 5_400.0)


@pytest.mark.parametrize(
    ("release", "said"),
    [
        (Release(frozenset(), 0.0), "the driver is being released"),
        (Release(frozenset(), 0.0, left=("a", "b")), "the driver cannot be released: a; b"),
        (
            Release(frozenset({FIRST.uuid, SECOND.uuid}), 86_400.0 + 3_723.5, Phase.RELEASED),
            "the driver is released until 01:02:03 UTC, GPU 0, 1 out of service",
        ),
        (
            Release(frozenset(), 0.0, Phase.RELEASED),
            "the driver is released until 00:00:00 UTC, no GPU out of service",
        ),
        (
            Release(frozenset(), 0.0, Phase.RETURNING),
            "the driver is being opened again after a release",
        ),
    ],
)
def test_what_is_said_of_it(release: Release, said: str) -> None:
    assert describe(release, NODE) == said


def test_it_is_in_the_document() -> None:
    state = released(running())
    assert document(running().snapshot, "daemon")["released"] is None
    found = document(state.snapshot, "daemon")
    assert found["released"] == {
        "text": "the driver is being released",
        "phase": "leaving",
        "until": 400.0,
        "gpus": [FIRST.uuid],
        "left": [],
    }
    assert "the driver is being released" in found["problems"]


# ---- in any order


class Act(enum.Enum):
    RELEASE_FIRST = "release the first GPU"
    RELEASE_SECOND = "release the second GPU"
    LEFT_OVER = "something is still held"
    LET_GO = "nothing is held"
    RESUME = "resume"
    BEGIN = "a scan begins"
    END = "the scan ends"
    FAIL = "the scan fails"
    PROBE = "all GPUs answer"
    TICK = "time passes"


@given(st.lists(st.sampled_from(Act), max_size=25))
def test_in_any_order_its_devices_are_down_until_a_scan_after_it(acts: list[Act]) -> None:
    state, expected, over, scanning = running(), set[str](), False, False
    for now, act in enumerate(acts):
        match act:
            case Act.RELEASE_FIRST | Act.RELEASE_SECOND:
                gpu = FIRST if act is Act.RELEASE_FIRST else SECOND
                state = operators.released(state, {gpu.uuid}, now, 10.0).state
                expected, over = expected | {d.uuid for d in gpu.mig_devices}, False
            case Act.LEFT_OVER | Act.LET_GO:
                left = ("x",) if act is Act.LEFT_OVER else ()
                state = operators.let_go(state, left).state
            case Act.RESUME:
                state, over = operators.resumed(state).state, bool(expected)
            case Act.BEGIN:
                state, scanning = scans.scan_begun(state), True
            case Act.END | Act.FAIL if scanning:
                state = (
                    scans.scan_ended(state, NODE, now)
                    if act is Act.END
                    else scans.scan_failed(state, scans.driver_unavailable("away"))
                ).state
                scanning = False
                if over:
                    expected, over = set(), False
            case Act.PROBE:
                state = steps.probed(state, WELL, now).state
            case Act.TICK:
                state = steps.ticked(state, now).state
        held = {uuid for uuid, codes in down(state).items() if Code.RELEASED in codes}
        assert held == expected
        release = state.snapshot.release
        assert (release is not None) == bool(expected)
        assert release is None or release.is_over == over
        assert {item.device.uuid for items in state.snapshot.advertisement.resources.values()
                for item in items} == {LEFT.uuid, RIGHT.uuid, OTHER.uuid}  # fmt: skip
