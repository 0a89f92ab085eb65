"""The steps of the state that a scan makes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core import scans
from plugin.core import state as steps
from plugin.core.health.ledger import EMPTY, cordon
from plugin.core.inventory.model import Inventory, MigMode
from plugin.core.reasons import Code

from .builders import gpu, node
from .state_steps import (
    FIRST,
    LEFT,
    MIXED,
    NODE,
    ONE,
    OTHER,
    REMADE,
    RIGHT,
    SECOND,
    down,
    requests,
    running,
    scanned,
)


def test_the_first_scan_is_the_first_generation_and_asks_for_probes() -> None:
    before = steps.initial(MIXED, 3.0)
    assert (before.snapshot.generation, before.snapshot.geometry_changed) == (0, 3.0)
    step = scanned(before, now=5.0)
    snapshot = step.state.snapshot
    assert (snapshot.generation, snapshot.geometry, snapshot.geometry_changed) == (1, 1, 5.0)
    assert [item.id for item in snapshot.advertisement.resources[ONE]] == [
        LEFT.uuid,
        RIGHT.uuid,
        OTHER.uuid,
    ]
    assert requests(step) == {"probe"}


def test_a_scan_that_shows_the_same_changes_nothing_and_asks_for_nothing() -> None:
    before = running()
    step = scanned(before, now=9.0)
    assert step.state == before
    assert step.state.snapshot is before.snapshot
    assert (step.news, requests(step)) == ((), set())


def test_a_scan_that_shows_nothing_at_all_is_a_generation_too() -> None:
    assert scanned(steps.initial(MIXED, 0.0), node()).state.snapshot.generation == 1


@pytest.mark.parametrize(
    ("scan", "changed"),
    [
        pytest.param(node(replace(FIRST, warnings=("odd",)), SECOND), False, id="a warning"),
        pytest.param(node(FIRST), True, id="a GPU went"),
        pytest.param(REMADE, True, id="an instance was made anew"),
        pytest.param(
            node(replace(FIRST, mig=MigMode(current=False, pending=False)), SECOND),
            True,
            id="MIG mode",
        ),
    ],
)
def test_changes_of_the_set_of_devices_are_counted(
    scan: Inventory,
    changed: bool,  # noqa: FBT001
) -> None:
    snapshot = scanned(running(), scan, 9.0).state.snapshot
    assert (snapshot.geometry, snapshot.geometry_changed) == ((2, 9.0) if changed else (1, 0.0))


def test_a_driver_that_does_not_answer_holds_everything_down_until_it_does() -> None:
    reason = scans.driver_unavailable("no answer")
    failed = scans.scan_failed(scans.scan_begun(running()), reason).state
    assert failed.snapshot.driver_error is reason
    assert down(failed) == dict.fromkeys((LEFT.uuid, RIGHT.uuid, OTHER.uuid), (reason.code,))
    assert scans.scan_failed(failed, reason).state.snapshot is failed.snapshot
    assert down(scanned(failed).state) == {}


def test_what_an_earlier_process_held_down_is_down_in_the_first_generation() -> None:
    ledger = cordon(EMPTY, LEFT.uuid, NODE, 1.0)
    before = steps.restored(steps.initial(MIXED, 0.0), ledger, rebooted=False)
    assert before.snapshot.generation == 0
    assert down(scanned(before).state) == {LEFT.uuid: (Code.CORDONED,)}


def test_a_reboot_and_a_gpu_without_its_instances_count_as_resets() -> None:
    rebooted = steps.restored(steps.initial(MIXED, 0.0), EMPTY, rebooted=True)
    health = scanned(rebooted, now=5.0).state.snapshot.gpu_health
    assert {each.reset_seen for each in health.values()} == {5.0}
    empty = node(gpu(0, mig=True), SECOND)
    emptied = scanned(scanned(running(), empty, 6.0).state, empty, 7.0).state.snapshot.gpu_health
    assert [emptied[each.uuid].reset_seen for each in NODE.gpus] == [7.0, None]
    broken = scanned(running(), node(gpu(0, error="no"), SECOND), 7.0).state.snapshot.gpu_health
    assert broken[FIRST.uuid].reset_seen is None


def test_a_gpu_that_hangs_takes_its_own_devices_down_until_it_answers() -> None:
    hung = replace(FIRST, error="GPU 0 does not answer", hung=True)
    state = steps.watched(running(), {FIRST.uuid: "no handle"}).state
    state = scanned(state, node(hung, SECOND)).state
    # Once: neither as an error of the GPU nor as one that cannot be watched.
    assert down(state) == {LEFT.uuid: ("not-answering",), RIGHT.uuid: ("not-answering",)}
    assert state.snapshot.geometry == 1
    (reason,) = state.snapshot.advertisement.resources[ONE][0].reasons
    assert reason.text == "GPU 0 does not answer"
    whole = replace(gpu(0), error="GPU 0 does not answer", hung=True)
    assert down(scanned(running(scan=node(gpu(0))), node(whole)).state) == {
        whole.uuid: ("not-answering",)
    }
    state = steps.watched(scanned(state).state, {}).state
    assert down(state) == {}


def test_a_driver_of_which_something_else_fails_each_time_is_not_scanned_without_end() -> None:
    state, asked = running(), []
    for number in range(20):
        step = scanned(state, replace(NODE, unreadable={number % 2 + 7: "no UUID"}))
        state = step.state
        asked.append(step.rescan)
    burst = [True] * scans.MOST_LOOKS + [False]
    assert asked == burst * 5
