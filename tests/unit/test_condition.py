"""The node's condition and taint, from the snapshot."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.condition import (
    Condition,
    Status,
    condition,
    ended,
    is_transition,
    needs_reset,
    tainted,
    wanted_taint,
)
from plugin.core.configuration import Configuration
from plugin.core.grammars import Taint
from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.ledger import from_document, to_document
from plugin.core.inventory.model import Inventory
from plugin.core.reasons import Code, Reason
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import State

from .builders import gpu, mig_gpu, node
from .state_steps import FIRST, LEFT, NODE, ON_FIRST, ON_LEFT, SECOND, WELL, running, scanned

TYPE = "MigDevicesHealthy"
OURS = Taint("nvidia.com/gpu-needs-reset", "", "NoSchedule")
SETTINGS = Settings(mig_strategy=MigStrategy.MIXED, node_condition=TYPE, node_taint=OURS)
WELL_STATE = running(SETTINGS)


def of(state: State) -> Condition:
    found = condition(state.snapshot)
    assert found is not None
    return found


def after(*events: DriverEvent) -> State:
    return steps.happened(WELL_STATE, events, 1.0).state


HUNG = replace(NODE, gpus=(replace(FIRST, error="no answer", hung=True), SECOND))
ODD = node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "3g.20gb"))
LEAVING = Withdrawal({LEFT.uuid: Reason(Code.PARTITIONING, "it makes room")})
GONE = scanned(scanned(after(ON_FIRST), node(SECOND)).state, node(SECOND)).state
STATES = {
    "healthy": (WELL_STATE, Status.TRUE, "DevicesHealthy", "all 3 devices are healthy"),
    "a fault": (after(ON_LEFT), Status.FALSE, "DevicesUnhealthy", "1 device is out of service"),
    "a fault of a GPU": (after(ON_FIRST), Status.FALSE, "DevicesUnhealthy", "2 devices are out of"),
    "a faulty GPU is gone": (GONE, Status.FALSE, "DevicesUnhealthy", "not on the node any more"),
    "cordoned": (
        operators.cordoned(WELL_STATE, LEFT.uuid, 1.0).state,
        Status.TRUE,
        "DevicesHealthy",
        "all 3",
    ),
    "makes room for a MIG configuration": (
        operators.withdrawn(WELL_STATE, LEAVING).state,
        Status.TRUE,
        "DevicesHealthy",
        "all 3",
    ),
    "released to be reset": (
        operators.let_go(operators.released(WELL_STATE, [FIRST.uuid], 1.0, 60.0).state, ()).state,
        Status.TRUE,
        "DevicesHealthy",
        "all 3",
    ),
    "makes room, and has a fault": (
        operators.withdrawn(after(ON_LEFT), LEAVING).state,
        Status.FALSE,
        "DevicesUnhealthy",
        "1 device is out of service: MIG device 0:0",
    ),
    "a GPU hangs": (
        scanned(WELL_STATE, HUNG).state,
        Status.UNKNOWN,
        "DevicesUnreadable",
        "2 devices are not readable: MIG device 0:0",
    ),
    "a GPU hangs beside a fault": (
        scanned(after(replace(ON_LEFT, gpu_uuid=SECOND.uuid, gi=7)), HUNG).state,
        Status.FALSE,
        "DevicesUnhealthy",
        "1 device is out of service: MIG device 1:0",
    ),
    "a GPU was never read": (
        running(SETTINGS, replace(NODE, unreadable={2: "GPU 2 cannot be read"})),
        Status.UNKNOWN,
        "DevicesUnreadable",
        "GPU 2 cannot be read",
    ),
    "the driver is away": (
        scans.scan_failed(WELL_STATE, scans.driver_unavailable("no driver")).state,
        Status.UNKNOWN,
        "DriverUnavailable",
        "no driver",
    ),
    "before the first scan": (steps.initial(SETTINGS, 0.0), Status.UNKNOWN, "NotScanned", "not"),
    "single is broken": (
        running(dataclasses.replace(SETTINGS, mig_strategy=MigStrategy.SINGLE), ODD),
        Status.FALSE,
        "StrategyViolated",
        "every MIG device must have one profile",
    ),
    "no devices": (running(SETTINGS, node(gpu(0, mig=True))), Status.TRUE, "NoDevices", "no"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_the_condition_is_that_of_the_snapshot(case: str) -> None:
    state, status, reason, message = STATES[case]
    found = of(state)
    assert (found.type, found.status, found.reason) == (TYPE, status, reason)
    assert message in found.message


def test_the_message_stays_short() -> None:
    many = node(*(mig_gpu(index, *["1g.5gb"] * 7) for index in range(8)))
    state = running(SETTINGS, many)
    lost = [DriverEvent(EventKind.XID, gpu.uuid, data=79) for gpu in many.gpus]
    found = of(steps.happened(state, lost, 1.0).state)
    assert "56 devices are out of service" in found.message
    assert len(found.message.encode()) <= 1024


def refusing(state: State, problem: str) -> Condition:
    return of(steps.configuration_noted(state, Configuration(problem=problem)).state)


@pytest.mark.parametrize("case", STATES)
def test_a_refused_configuration_is_in_the_message_and_leaves_the_status(case: str) -> None:
    state, status, reason, message = STATES[case]
    found = refusing(state, "flags.migStrategy: 'x' is not valid")
    assert (found.type, found.status) == (TYPE, status)
    assert found.reason == ("ConfigurationRefused" if status is Status.TRUE else reason)
    assert message in found.message
    assert found.message.endswith("the old one stays in force: flags.migStrategy: 'x' is not valid")
    assert not is_transition(of(state), found)


@given(st.text(min_size=1, max_size=2000), st.text(max_size=2000))
def test_both_messages_have_their_place(problem: str, fault: str) -> None:
    away = scans.scan_failed(WELL_STATE, scans.driver_unavailable(f"no driver {fault}")).state
    found = refusing(away, problem)
    assert found.message.startswith("no driver")
    assert "the configuration was refused, the old one stays in force: " in found.message
    assert len(found.message.encode()) <= 1024


def test_a_fault_that_happens_again_changes_nothing() -> None:
    again = steps.happened(after(ON_LEFT), [ON_LEFT], 9.0).state
    assert again.snapshot.generation > after(ON_LEFT).snapshot.generation
    assert of(again) == of(after(ON_LEFT))


def test_only_another_status_is_a_transition() -> None:
    one, two = of(after(ON_LEFT)), of(after(ON_FIRST))
    assert one != two
    assert not is_transition(one, two)
    assert is_transition(None, one)
    assert is_transition(one, of(WELL_STATE))
    assert is_transition(one, ended(TYPE))
    assert ended(TYPE).status is Status.UNKNOWN


def test_without_a_type_there_is_none() -> None:
    assert condition(running().snapshot) is None


# ---- the taint


def with_action(state: State, action: int | None, **changes: object) -> State:
    probe = replace(WELL[0], recovery_action=action, **changes)
    return steps.probed(state, [probe], 2.0).state


ASKED = with_action(WELL_STATE, 1)
LOST = scanned(
    scanned(with_action(WELL_STATE, None, lost=True, error="lost"), node(SECOND)).state,
    node(SECOND),
).state


#: XID 31 is the application's, 79 is reset or reboot, and 95 asks for a reset.
@pytest.mark.parametrize(
    ("state", "due"),
    [
        pytest.param(WELL_STATE, False, id="well"),
        pytest.param(with_action(WELL_STATE, 1), True, id="reset"),
        pytest.param(with_action(WELL_STATE, 2), True, id="reboot"),
        pytest.param(with_action(WELL_STATE, 3), False, id="drain peer-to-peer traffic"),
        pytest.param(with_action(WELL_STATE, 99), True, id="an action of a newer driver"),
        pytest.param(with_action(ASKED, None, error="busy"), True, id="cannot be asked now"),
        pytest.param(LOST, True, id="off the bus"),
        pytest.param(with_action(WELL_STATE, None, lost=True, error="lost"), True, id="lost"),
        pytest.param(after(ON_FIRST), False, id="a fault of which the driver asks nothing"),
        pytest.param(
            with_action(after(replace(ON_FIRST, data=64)), None), True, id="an old driver, XID 64"
        ),
        pytest.param(
            with_action(after(replace(ON_FIRST, data=31)), None), False, id="an old driver, XID 31"
        ),
    ],
)  # fmt: skip
def test_the_taint_is_due_while_a_gpu_needs_a_reset_or_reboot(state: State, *, due: bool) -> None:
    assert wanted_taint(state.snapshot) == (OURS if due else None)
    assert needs_reset(state.snapshot) == ((FIRST.uuid,) if due else ())


def restarted(state: State, *, rebooted: bool, scan: Inventory) -> State:
    """The next process, with what is in the file."""
    saved = from_document(to_document(state.snapshot.ledger))
    fresh = steps.restored(steps.initial(SETTINGS, 0.0), saved, rebooted=rebooted)
    return scanned(scanned(fresh, scan, 9.0).state, scan, 9.0).state


def test_a_lost_gpu_that_a_reboot_has_not_brought_back_needs_no_reset() -> None:
    without, ours = node(SECOND), (FIRST.uuid,)
    again = restarted(LOST, rebooted=False, scan=without)
    assert needs_reset(again.snapshot) == ours
    booted = restarted(again, rebooted=True, scan=without)
    assert needs_reset(booted.snapshot) == ()
    found = of(booted)
    assert found.status is Status.FALSE
    assert f"`mig-device-plugin health clear {FIRST.uuid}`" in found.message
    later = restarted(booted, rebooted=False, scan=without)
    assert needs_reset(later.snapshot) == ()
    # One that came back and gets lost again is another case.
    back = restarted(later, rebooted=False, scan=NODE)
    lost = scanned(scanned(back, without, 10.0).state, without, 10.0).state
    assert needs_reset(lost.snapshot) == ours
    assert of(operators.cleared(later, FIRST.uuid, 11.0).state).status is not Status.FALSE


def test_an_absence_that_is_not_certain_ends_no_taint() -> None:
    unread = replace(node(SECOND), unreadable={0: "GPU 0 cannot be read"})
    held = after(replace(ON_FIRST, data=95))
    saved = from_document(to_document(held.snapshot.ledger))
    fresh = steps.restored(steps.initial(SETTINGS, 0.0), saved, rebooted=True)
    assert needs_reset(scanned(fresh, unread, 9.0).state.snapshot) == (FIRST.uuid,)


def test_the_taint_is_off_by_default() -> None:
    state = steps.probed(running(), [Probe(FIRST.uuid, recovery_action=1)], 2.0).state
    assert needs_reset(state.snapshot)
    assert wanted_taint(state.snapshot) is None


OTHER = Taint("other", "x", "NoExecute")
FORMER = Taint("former", "", "NoSchedule")


@pytest.mark.parametrize(
    ("now", "wanted", "ours", "expected"),
    [
        ((OTHER,), OURS, (), ((OTHER, OURS), frozenset({OURS}))),
        ((OTHER, OURS), OURS, (OURS,), ((OTHER, OURS), frozenset({OURS}))),
        ((OURS, OTHER), None, (OURS,), ((OTHER,), frozenset())),
        ((OURS, OTHER), None, (), ((OURS, OTHER), frozenset())),
        ((OURS,), OURS, (), ((OURS,), frozenset())),
        ((replace_ := OURS._replace(value="admin"),), OURS, (), ((replace_,), frozenset())),
        ((FORMER, OTHER), OURS, (FORMER,), ((OTHER, OURS), frozenset({OURS}))),
        ((), None, (OURS,), ((), frozenset())),
    ],
)
def test_only_our_own_taint_comes_and_goes(
    now: tuple[Taint, ...],
    wanted: Taint | None,
    ours: tuple[Taint, ...],
    expected: tuple[tuple[Taint, ...], frozenset[Taint]],
) -> None:
    assert tainted(now, wanted, ours) == expected


some = st.sampled_from([OURS, OTHER, FORMER, OURS._replace(value="admin")])


@given(st.lists(some, unique=True), st.none() | st.just(OURS), st.frozensets(some))
def test_what_others_have_set_is_never_touched(
    now: list[Taint], wanted: Taint | None, ours: frozenset[Taint]
) -> None:
    after_, owned = tainted(now, wanted, ours)
    assert [taint for taint in now if taint not in ours] == [
        taint for taint in after_ if taint in now and taint not in ours
    ]
    assert owned <= ours | {wanted}
    assert tainted(after_, wanted, owned) == (after_, owned)
