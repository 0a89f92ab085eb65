"""Durations by the monotonic clock: whoever sets the wall clock ends and prolongs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.ledger import Entry, from_document, to_document
from plugin.core.health.recovery import ABSENT_SECONDS, GpuHealth
from plugin.core.health.timeline import (
    TOLERANCE_SECONDS,
    Moment,
    clock_step,
    moved_health,
    moved_ledger,
    restored_ledger,
)
from plugin.core.news import ClockSet
from plugin.core.reasons import Reason
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import State, Step

from .builders import mig_gpu, node

MIXED = Settings(mig_strategy=MigStrategy.MIXED)
GPU, OTHER = mig_gpu(0, "1g.5gb", "1g.5gb"), mig_gpu(1, "1g.5gb")
LEFT = GPU.mig_devices[0]
NODE = node(GPU, OTHER)
HOUR, YEAR = 3600.0, 365 * 86_400.0

#: A whole number, as are all times here, so that no rounding hides or makes a difference.
BOOT = 1_795_000_000.0

Make = Callable[[State, float], Step]


def well(state: State, now: float) -> Step:
    return steps.probed(state, [Probe(gpu.uuid, recovery_action=0) for gpu in NODE.gpus], now)


def unwell(state: State, now: float) -> Step:
    return steps.probed(state, [Probe(GPU.uuid, recovery_action=1)], now)


def fatal(state: State, now: float) -> Step:
    event = DriverEvent(EventKind.XID, GPU.uuid, LEFT.gi, LEFT.ci, 95)
    return steps.happened(state, [event], now)


def crash(state: State, now: float) -> Step:
    event = DriverEvent(EventKind.XID, GPU.uuid, LEFT.gi, LEFT.ci, 13)
    return steps.happened(state, [event] * 12, now)


def scan(state: State, now: float) -> Step:
    return scans.scan_ended(scans.scan_begun(state), NODE, now)


def without(state: State, now: float) -> Step:
    return scans.scan_ended(scans.scan_begun(state), node(OTHER), now)


def cordon(state: State, now: float) -> Step:
    return operators.cordoned(state, LEFT.uuid, now)


INPUTS: Sequence[Make] = (well, unwell, fatal, crash, scan, without, cordon, steps.ticked)


class Clocks:
    """What a writer does with both clocks."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, BOOT + 100.0
        self.state = steps.initial(MIXED, self.wall, BOOT)
        self.make(scan)
        self.make(well)

    def pass_by(self, seconds: float, *, set_by: float = 0.0) -> None:
        self.monotonic += seconds
        self.wall += seconds + set_by

    def make(self, what: Make) -> Step:
        moment = Moment(self.wall, self.monotonic)
        self.state = steps.clocks_read(self.state, moment).state
        step = what(self.state, self.state.offset + moment.monotonic)
        self.state = step.state
        return step

    def down(self) -> dict[str, list[str]]:
        listed = self.state.snapshot.advertisement.resources.values()
        return {
            item.id: [str(reason.code) for reason in item.reasons]
            for items in listed
            for item in items
            if not item.healthy
        }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(INPUTS),
            st.sampled_from([0, 1, 5, 59, 60, 61, 600, 3600, 86_400]) | st.integers(0, 100_000),
            st.sampled_from([0, HOUR, -HOUR, YEAR, -YEAR, 50 * YEAR, -56 * YEAR, 2, -2]),
        ),
        max_size=25,
    )
)
def test_verdicts_are_those_of_a_clock_that_nobody_sets(
    history: list[tuple[Make, int, float]],
) -> None:
    steady, jumping = Clocks(), Clocks()
    for make, seconds, set_by in history:
        steady.pass_by(seconds)
        jumping.pass_by(seconds, set_by=set_by)
        expected, found = steady.make(make), jumping.make(make)
        assert jumping.down() == steady.down()
        assert (found.rescan, found.probe) == (expected.rescan, expected.probe)
        # When to look again is as far away, and what people see is as old.
        assert found.look_again is None or expected.look_again is not None
        if expected.look_again is not None and found.look_again is not None:
            assert found.look_again - jumping.wall == expected.look_again - steady.wall
        assert moved_ledger(jumping.state.snapshot.ledger, steady.wall - jumping.wall) == dict(
            steady.state.snapshot.ledger
        )


def test_a_quiet_period_lasts_as_long_as_it_does() -> None:
    for set_by in (YEAR, -YEAR):
        clocks = Clocks()
        clocks.make(fatal)
        clocks.pass_by(MIXED.quiet_seconds - 1, set_by=set_by)
        clocks.make(steps.ticked)
        assert clocks.down() == {LEFT.uuid: ["xid-95"]}
        clocks.pass_by(1)
        clocks.make(steps.ticked)
        assert clocks.down() == {}


def test_people_see_the_clock_that_they_have() -> None:
    clocks = Clocks()
    clocks.make(fatal)
    clocks.pass_by(10, set_by=YEAR)
    step = steps.clocks_read(clocks.state, Moment(clocks.wall, clocks.monotonic))
    assert step.news == (ClockSet(YEAR),)
    (reason,) = step.state.snapshot.ledger[LEFT.uuid].reasons
    assert reason.since == clocks.wall - 10
    listed = step.state.snapshot.advertisement.offer(LEFT.uuid)
    assert listed is not None
    assert listed.listed.reasons == (reason,)
    assert step.state.snapshot.geometry_changed == BOOT + 100 + YEAR
    assert step.state.snapshot.generation == clocks.state.snapshot.generation + 1


def test_drift_moves_nothing() -> None:
    clocks = Clocks()
    clocks.pass_by(10, set_by=TOLERANCE_SECONDS / 2)
    step = steps.clocks_read(clocks.state, Moment(clocks.wall, clocks.monotonic))
    assert (step.state, step.news) == (clocks.state, ())
    assert clock_step(BOOT, Moment(BOOT + 5 - TOLERANCE_SECONDS, 5.0)) == -TOLERANCE_SECONDS


def test_before_the_first_scan_nobody_is_shown_anything() -> None:
    before = steps.initial(MIXED, BOOT, BOOT)
    assert steps.clocks_read(before, Moment(BOOT + YEAR, 1.0)).state == before


def test_every_time_of_an_entry_and_of_a_gpu_is_moved() -> None:
    times = {name: 10.0 for name, kind in Entry.__annotations__.items() if kind == "float | None"}
    assert {"recovered", "incident", "last_fault", "absent_since"} <= times.keys()
    entry = replace(
        Entry(GPU.uuid, reasons=(Reason.held("xid-95", "", 10.0),), applications=(10.0, 10.0)),
        **times,
    )
    moved = moved_ledger({GPU.uuid: entry}, 5.0)[GPU.uuid]
    assert {getattr(moved, name) for name in times} == {15.0}
    assert moved.applications == (15.0, 15.0)
    assert (moved.reasons[0].since, moved.reasons[0].last) == (15.0, 15.0)
    times = {
        name: 10.0 for name, kind in GpuHealth.__annotations__.items() if kind == "float | None"
    }
    assert times.keys() == {"good_since", "reset_seen"}
    health = moved_health({GPU.uuid: GpuHealth(**times)}, 5.0)[GPU.uuid]  # type: ignore[arg-type]
    assert {getattr(health, name) for name in times} == {15.0}


# ---- over a restart


@pytest.mark.parametrize(
    ("saved_offset", "offset", "age"),
    [
        pytest.param(BOOT, BOOT, 30.0, id="nobody set it"),
        pytest.param(BOOT, BOOT + YEAR, 30.0, id="set forward within this boot"),
        pytest.param(BOOT, BOOT - YEAR, 30.0, id="set back within this boot"),
        pytest.param(None, BOOT, 30.0, id="another boot"),
        pytest.param(None, BOOT - YEAR, 0.0, id="another boot with an earlier clock"),
    ],
)
def test_saved_times_keep_their_age_where_it_is_known(
    saved_offset: float | None, offset: float, age: float
) -> None:
    entry = Entry(GPU.uuid, reasons=(Reason.held("xid-95", "", BOOT + 100),), absent_since=BOOT)
    document = to_document({GPU.uuid: entry})
    moment = Moment(offset + 130, 130.0)
    restored = restored_ledger(from_document(document), saved_offset, moment)[GPU.uuid]
    assert restored.reasons[0].last == moment.wall - age
    assert restored.absent_since is not None
    assert restored.absent_since <= moment.wall


def test_an_absence_goes_on_over_a_clock_that_was_set() -> None:
    clocks = Clocks()
    clocks.make(fatal)
    clocks.make(without)
    clocks.pass_by(ABSENT_SECONDS - 1, set_by=-YEAR)
    clocks.make(without)
    assert LEFT.uuid in clocks.state.snapshot.ledger
    clocks.pass_by(1, set_by=2 * YEAR)
    clocks.make(without)
    assert LEFT.uuid not in clocks.state.snapshot.ledger
