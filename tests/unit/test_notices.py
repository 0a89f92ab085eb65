"""What the cluster is told of a change, and about whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import operators, scans
from plugin.core import state as steps
from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.configuration import Configuration
from plugin.core.health.events import DriverEvent
from plugin.core.health.timeline import Moment
from plugin.core.inventory.model import Inventory
from plugin.core.notices import MOST_BYTES, Kind, Notice, Pod, notices
from plugin.core.quote import shorten_bytes
from plugin.core.reasons import Code, Reason
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import State
from plugin.core.view import Holder

from .builders import gpu, mig_device, node
from .state_steps import (
    CHANGED,
    FIRST,
    LEFT,
    MIXED,
    NODE,
    ON_FIRST,
    ON_LEFT,
    OTHER,
    REMADE,
    RIGHT,
    SECOND,
    WELL,
    running,
    scanned,
)

#: LEFT has two shares in two pods; RIGHT and OTHER have a pod each.
HOLDERS = {
    f"{LEFT.uuid}::0": (Holder("a", "left", "one"), Holder("a", "left", "two")),
    f"{LEFT.uuid}::1": (Holder("a", "also", "main"),),
    RIGHT.uuid: (Holder("a", "right", "main"),),
    OTHER.uuid: (Holder("b", "other", "main"),),
}
SINGLE = Settings(mig_strategy=MigStrategy.SINGLE)
WELL_STATE = running()


def told(old: State, new: State) -> list[Notice]:
    return list(notices(old.snapshot, new.snapshot, HOLDERS))


def brief(old: State, new: State) -> set[tuple[str, str]]:
    """Reasons with about whom."""
    return {(each.reason, each.pod.name if each.pod else "node") for each in told(old, new)}


def after(state: State, *events: DriverEvent, now: float = 1.0) -> State:
    return steps.happened(state, events, now).state


def probed(state: State, now: float, **changes: object) -> State:
    first = replace(WELL[0], **changes)
    return steps.probed(state, [first, WELL[1]], now).state


def cleared(state: State, now: float) -> State:
    return steps.ticked(probed(state, 2.0), now).state


FAULTY, CORDONED = after(WELL_STATE, ON_LEFT), operators.cordoned(WELL_STATE, LEFT.uuid, 1.0).state
LOST = probed(WELL_STATE, 1.0, lost=True, error="it is lost")
AGAIN = after(cleared(FAULTY, 100.0), ON_LEFT, now=101.0)
HUNG = scanned(
    WELL_STATE, replace(NODE, gpus=(replace(FIRST, error="no answer", hung=True), SECOND))
).state


def refusing(state: State, problem: str) -> State:
    return steps.configuration_noted(state, Configuration("shared", problem)).state


REFUSED = refusing(WELL_STATE, "flags.migStrategy: 'x' is not valid; choose none, single, mixed")
AWAY = scans.scan_failed(WELL_STATE, scans.driver_unavailable("no driver")).state
ALIKE = running(SINGLE)
BROKEN = scanned(
    after(ALIKE, replace(CHANGED, gpu_uuid=SECOND.uuid)),
    node(FIRST, gpu(1, mig_device(1, 4, "3g.20gb"))),
).state


def whole(reason: str, *names: str) -> set[tuple[str, str]]:
    return {(reason, name) for name in ("node", *names)}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(WELL_STATE, WELL_STATE, set(), id="nothing"),
        pytest.param(WELL_STATE, FAULTY, whole("DeviceFault", "left", "also"), id="a fault"),
        pytest.param(
            WELL_STATE,
            after(WELL_STATE, ON_FIRST),
            whole("DeviceFault", "left", "also", "right"),
            id="a fault of a GPU",
        ),
        pytest.param(
            FAULTY,
            after(FAULTY, ON_LEFT, now=9.0),
            whole("DeviceFault", "left", "also"),
            id="a fault happens again",
        ),
        pytest.param(WELL_STATE, LOST, whole("GpuLost", "left", "also", "right"), id="lost"),
        pytest.param(
            WELL_STATE,
            probed(WELL_STATE, 1.0, recovery_action=1),
            whole("GpuNeedsRecovery", "left", "also", "right"),
            id="a recovery action",
        ),
        pytest.param(
            FAULTY,
            cleared(FAULTY, 100.0),
            whole("DeviceRecovered", "left", "also"),
            id="recovery",
        ),
        pytest.param(
            cleared(FAULTY, 100.0),
            AGAIN,
            whole("DeviceFault", "left", "also") | whole("DeviceFlapping", "left", "also"),
            id="flapping",
        ),
        pytest.param(
            WELL_STATE, CORDONED, whole("DeviceCordoned", "left", "also"), id="cordon"
        ),
        pytest.param(
            CORDONED,
            operators.uncordoned(CORDONED, LEFT.uuid).state,
            whole("DeviceUncordoned", "left", "also"),
            id="uncordon",
        ),
        pytest.param(
            WELL_STATE, HUNG, whole("GpuNotAnswering", "left", "also", "right"), id="a GPU hangs"
        ),
        pytest.param(
            HUNG,
            scanned(HUNG).state,
            whole("GpuAnswers", "left", "also", "right"),
            id="it answers again",
        ),
        pytest.param(WELL_STATE, AWAY, whole("DriverUnavailable"), id="no driver"),
        pytest.param(AWAY, scanned(AWAY).state, whole("DriverAvailable"), id="a driver again"),
        pytest.param(
            WELL_STATE,
            scanned(after(WELL_STATE, CHANGED), REMADE).state,
            {("GeometryChanged", "node"), ("DeviceRemoved", "left"), ("DeviceRemoved", "also")},
            id="a device was made anew",
        ),
        pytest.param(
            FAULTY,
            scanned(after(FAULTY, CHANGED), REMADE).state,
            {("GeometryChanged", "node"), ("DeviceRemoved", "left"), ("DeviceRemoved", "also")},
            id="a faulty one is gone, which is no recovery",
        ),
        pytest.param(
            ALIKE,
            BROKEN,
            {
                *whole("GeometryChanged"),
                *whole("StrategyViolated"),
                *whole("ResourcesWithdrawn"),
                ("DeviceRemoved", "other"),
            },
            id="single is broken",
        ),
        pytest.param(
            BROKEN,
            steps.configured(BROKEN, MIXED).state,
            whole("StrategyObeyed"),
            id="single is given up",
        ),
        pytest.param(
            WELL_STATE,
            steps.configured(WELL_STATE, Settings(mig_strategy=MigStrategy.NONE)).state,
            whole("ResourcesWithdrawn"),
            id="MIG devices are not advertised any more",
        ),
        pytest.param(
            WELL_STATE, REFUSED, whole("ConfigurationRefused"), id="a configuration is refused"
        ),
        pytest.param(
            REFUSED,
            refusing(REFUSED, "another reason"),
            whole("ConfigurationRefused"),
            id="for another reason",
        ),
        pytest.param(
            REFUSED, refusing(REFUSED, ""), whole("ConfigurationAccepted"), id="and accepted"
        ),
        pytest.param(
            steps.initial(MIXED, 0.0),
            REFUSED,
            whole("ConfigurationRefused"),
            id="refused at the start",
        ),
        pytest.param(steps.initial(MIXED, 0.0), WELL_STATE, set(), id="the first scan"),
        pytest.param(
            FAULTY,
            steps.clocks_read(FAULTY, Moment(5_000.0, 1.0)).state,
            set(),
            id="the wall clock was set",
        ),
    ],
)  # fmt: skip
def test_what_is_told_and_about_whom(
    old: State, new: State, expected: set[tuple[str, str]]
) -> None:
    assert brief(old, new) == expected


def test_a_resource_that_partitioning_takes_away_is_what_was_asked_for() -> None:
    reason = Reason(Code.PARTITIONING, "it makes room")
    changing = Withdrawal(changing=dict.fromkeys((FIRST.uuid, SECOND.uuid), reason))
    (only,) = told(WELL_STATE, operators.withdrawn(WELL_STATE, changing).state)
    assert (only.reason, only.kind) == ("ResourcesWithdrawn", Kind.NORMAL)


def test_a_gpu_that_leaves_is_lost() -> None:
    away = scanned(scanned(WELL_STATE, node(SECOND)).state, node(SECOND)).state
    lost = {("GpuLost", name) for name in ("node", "left", "also", "right")}
    gone = {("DeviceRemoved", name) for name in ("left", "also", "right")}
    assert brief(WELL_STATE, away) == lost | gone | whole("GeometryChanged")


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        (
            WELL_STATE,
            FAULTY,
            Kind.WARNING,
            (f"MIG device 0:0 (1g.5gb, {LEFT.uuid}): XID 95", "no new pods until it has recovered"),
        ),
        (WELL_STATE, LOST, Kind.WARNING, (f"GPU 0 ({FIRST.uuid})", "lost", "reset the GPU or")),
        (FAULTY, cleared(FAULTY, 100.0), Kind.NORMAL, ("has recovered from: XID 95",)),
        (WELL_STATE, CORDONED, Kind.NORMAL, ("cordoned by an operator", "until it is uncordoned")),
        (
            cleared(FAULTY, 100.0),
            AGAIN,
            Kind.WARNING,
            ("has failed 2 times", "after 120 s without a fault"),
        ),
        (
            WELL_STATE,
            REFUSED,
            Kind.WARNING,
            ("the old one stays in force: flags.migStrategy: 'x'", "choose none", "once corrected"),
        ),
        (REFUSED, refusing(REFUSED, ""), Kind.NORMAL, ("configuration shared is in force",)),
        (ALIKE, BROKEN, Kind.WARNING, ("--mig-strategy=single: every MIG device must have one",)),
        (
            WELL_STATE,
            scanned(after(WELL_STATE, CHANGED), REMADE).state,
            Kind.NORMAL,
            ("the node has 3 × 1g.5gb; changed: GPU 0",),
        ),
    ],
)
def test_messages_say_which_device_what_happened_and_what_to_do(
    old: State, new: State, kind: Kind, words: tuple[str, ...]
) -> None:
    found = [each for each in told(old, new) if each.pod is None and each.kind is kind]
    assert any(all(word in each.message for word in words) for each in found), found


def test_a_pod_is_told_that_it_is_concerned() -> None:
    (first, *others) = told(WELL_STATE, FAULTY)
    assert [each.pod for each in others] == [Pod("a", "also"), Pod("a", "left")]
    assert all(first.message in each.message and "This pod" in each.message for each in others)


def test_causes_tell_faults_apart_and_topics_do_not() -> None:
    other = after(WELL_STATE, replace(ON_LEFT, data=109))
    one, two = told(WELL_STATE, FAULTY)[0], told(WELL_STATE, other)[0]
    again = told(FAULTY, after(FAULTY, ON_LEFT, now=9.0))[0]
    recovered = told(FAULTY, cleared(FAULTY, 100.0))[0]
    assert one.cause == again.cause != two.cause
    assert one.topic == two.topic == recovered.topic


def test_each_reason_of_a_refusal_is_an_event_with_its_own_text() -> None:
    """Of a repeated Event only the count changes."""
    one = told(WELL_STATE, REFUSED)[0]
    (other,) = told(REFUSED, refusing(REFUSED, "another reason"))
    (accepted,) = told(REFUSED, refusing(REFUSED, ""))
    assert one.cause != other.cause
    assert one.topic == other.topic == accepted.topic


@given(st.text(min_size=1, max_size=3000))
def test_what_to_do_about_a_refusal_is_never_cut_off(problem: str) -> None:
    (notice,) = told(WELL_STATE, refusing(WELL_STATE, problem))
    assert len(notice.message.encode()) <= MOST_BYTES
    assert notice.message.endswith("; once corrected it is applied without a restart")


def test_what_recovers_and_stays_cordoned_says_so() -> None:
    state = operators.cordoned(FAULTY, LEFT.uuid, 1.0).state
    assert "it stays cordoned" in told(state, cleared(state, 100.0))[0].message


events = st.sampled_from([ON_LEFT, ON_FIRST, CHANGED, replace(ON_LEFT, data=31)])
inventories = st.sampled_from([NODE, REMADE, node(SECOND), node(FIRST, SECOND), Inventory()])


@given(
    st.sampled_from([MIXED, SINGLE]),
    st.lists(events, max_size=3),
    st.lists(inventories, max_size=3),
    st.text(max_size=2000),
)
def test_every_notice_is_one_that_the_api_server_takes(
    settings: Settings, happened: list[DriverEvent], seen: list[Inventory], words: str
) -> None:
    old = running(settings)
    new = after(old, *happened)
    for inventory in seen:
        new = scanned(new, inventory, 50.0).state
    new = probed(new, 60.0, lost=True, error=words)
    for each in told(old, new):
        assert 0 < len(each.message.encode()) <= MOST_BYTES
        assert each.reason.isascii()
        assert each.reason.isalpha()
        assert each.reason[0].isupper()
        assert 0 < len(each.reason) <= 128
        assert 0 < len(each.action) <= 128


@given(st.text(), st.integers(3, 40))
def test_a_text_is_cut_between_characters(text: str, most: int) -> None:
    short = shorten_bytes(text, most)
    assert len(short.encode()) <= most
    encoded = text.encode("utf-8", "replace")
    assert short == encoded.decode() if len(encoded) <= most else short.endswith("…")
