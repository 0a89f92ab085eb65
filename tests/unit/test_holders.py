"""Who holds a device: which answers of kubelet are believed, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.holders import (
    HANDED_OUT_SECONDS,
    LONG_SETTLE_SECONDS,
    SETTLE_SECONDS,
    STALE_SECONDS,
    Answer,
    Holders,
    Holdings,
    answered,
    as_of,
    conflicts,
    from_json,
    handed_out,
    to_json,
    unanswered,
)
from plugin.core.view import Holder

ONE, TWO, THREE = (Holder("ml", name, "main") for name in ("one", "two", "three"))
ALL = {"MIG-1": (ONE,), "MIG-2": (TWO,), "MIG-3": (THREE,)}
DAY = 86_400.0


def answer(
    at: float,
    holders: Holders,
    *,
    kubelet: str | None = "first",
    up: float = DAY,
    pods: int | None = None,
    own: bool = True,
    checkpoint: set[str] | None = None,
) -> Answer:
    pods = len(holders) + own if pods is None else pods
    file = None if checkpoint is None else frozenset(checkpoint)
    return Answer(at, kubelet, up, holders, pods, own, file)


#: A kubelet that has been there for long, and its answer.
STEADY = answered(Holdings(), answer(0, ALL))


def test_the_first_answer_of_an_old_kubelet_is_believed() -> None:
    assert STEADY.trusted
    assert STEADY.holders == ALL
    assert STEADY.is_known


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(answer(0, {}, pods=0, own=False), id="no pods"),
        pytest.param(answer(0, {}, up=LONG_SETTLE_SECONDS - 1), id="a young kubelet"),
        pytest.param(answer(0, {}, kubelet=None), id="replaced while it answered"),
        pytest.param(answer(0, {}, kubelet=None, checkpoint=set()), id="replaced, with a file"),
        pytest.param(answer(0, {}, checkpoint={"MIG-1"}), id="the checkpoint names one more"),
        pytest.param(answer(0, {}, up=0, checkpoint={"MIG-1"}), id="young, and the checkpoint"),
    ],
)
def test_a_first_answer_in_doubt_makes_nothing_known(first: Answer) -> None:
    known = answered(Holdings(), first)
    assert not known.trusted
    assert not known.is_known
    assert not known.certainly_free


@pytest.mark.parametrize(
    ("holders", "file"),
    [
        pytest.param({}, set(), id="nobody holds anything"),
        pytest.param(ALL, {"MIG-1", "MIG-3"}, id="all of the checkpoint are listed"),
    ],
)
def test_the_checkpoint_confirms_at_once(holders: Holders, file: set[str]) -> None:
    young = answer(0, holders, up=0, pods=len(holders), own=False, checkpoint=file)
    assert answered(Holdings(), young).trusted


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(answer(1, {}, kubelet="second", pods=0, own=False), id="empty"),
        pytest.param(answer(1, {}, kubelet="second"), id="only our pod"),
        pytest.param(answer(1, {"MIG-1": (ONE,)}, kubelet="second"), id="some"),
        pytest.param(answer(1, {}, kubelet=None), id="while it is replaced"),
        pytest.param(answer(1, {}, kubelet="second", checkpoint=set(ALL)), id="with a checkpoint"),
        pytest.param(answer(1, {"MIG-1": (ONE,)}), id="most are gone at once"),
        pytest.param(answer(1, ALL, own=False), id="our own pod is gone"),
        pytest.param(answer(1, {}, pods=0, own=False), id="empty without a restart"),
    ],
)
def test_nobody_is_believed_gone_until_it_is_confirmed(second: Answer) -> None:
    known = answered(STEADY, second)
    assert known.holders == ALL
    assert not known.trusted
    assert known.is_known, "what was known a second ago still holds"
    assert known.doubted == 1


def test_a_pod_that_ends_is_gone_with_the_next_answer() -> None:
    rest = {"MIG-1": (ONE,), "MIG-2": (TWO,)}
    known = answered(STEADY, answer(1, rest))
    assert known.trusted
    assert known.holders == rest


@pytest.mark.parametrize(
    ("own", "file", "seconds"),
    [
        pytest.param(True, None, SETTLE_SECONDS, id="our pod is listed"),
        pytest.param(True, {"MIG-1", "MIG-9"}, SETTLE_SECONDS, id="a pod of the file has ended"),
        pytest.param(False, None, LONG_SETTLE_SECONDS, id="our pod is not known"),
        pytest.param(False, {"MIG-1", "MIG-9"}, LONG_SETTLE_SECONDS, id="nor what the file says"),
    ],
)
def test_answers_that_look_whole_for_long_are_believed(
    own: bool,  # noqa: FBT001 — a column of the table
    file: set[str] | None,
    seconds: float,
) -> None:
    before = replace(STEADY, own_seen=own)
    left = {"MIG-1": (ONE,)}
    new = answer(10, left, kubelet="second", own=own, checkpoint=file)
    empty = answer(5, {}, kubelet="second", pods=0, own=False)
    first = answered(answered(before, empty), new)
    almost = answered(first, replace(new, at=10 + seconds - 0.1))
    assert (almost.trusted, almost.holders) == (False, ALL)
    assert answered(almost, replace(new, at=10 + seconds)).holders == left
    # Another restart, or a pod of ours that is away again, begins anew.
    again = answered(almost, replace(new, at=10 + seconds, kubelet="third"))
    assert (again.trusted, again.holders) == (False, ALL)
    away = answered(almost, replace(new, at=10 + seconds, pods=0, own=False, kubelet="second"))
    assert not away.trusted or not own


def test_a_kubelet_without_a_pod_is_believed_only_after_it_listed_some() -> None:
    empty = answer(0, {}, pods=0, own=False)
    strange = answered(Holdings(), empty)
    assert not answered(strange, replace(empty, at=LONG_SETTLE_SECONDS)).trusted
    before = replace(STEADY, own_seen=False)
    gone = answered(before, replace(empty, at=1))
    assert answered(gone, replace(empty, at=1 + LONG_SETTLE_SECONDS)).certainly_free


def test_while_in_doubt_new_holders_add_up() -> None:
    known = answered(STEADY, answer(1, {"MIG-1": (TWO,), "MIG-4": (ONE,)}, kubelet="second"))
    assert known.holders == {**ALL, "MIG-1": (ONE, TWO), "MIG-4": (ONE,)}


def test_a_kubelet_that_does_not_answer_takes_nothing_away() -> None:
    silent = unanswered(STEADY)
    assert silent.holders == ALL
    assert not silent.certainly_free
    assert as_of(silent, STALE_SECONDS).is_known
    stale = as_of(silent, STALE_SECONDS + 1)
    assert (stale.is_known, stale.holders) == (False, ALL)
    assert answered(silent, answer(STALE_SECONDS + 2, ALL)).is_known


def test_what_we_handed_out_is_held_before_kubelet_lists_it() -> None:
    free = answered(Holdings(), answer(0, {}))
    assert free.certainly_free
    given = handed_out(free, ["MIG-1", "MIG-2"], 1.0)
    assert not given.certainly_free
    listed = answered(given, answer(2, {"MIG-1": (ONE,)}))
    assert listed.handed_out == {"MIG-2": 1.0}
    assert not answered(listed, answer(3, {})).certainly_free
    late = answer(1 + HANDED_OUT_SECONDS, {})
    assert answered(listed, late).certainly_free
    # Not by the answer of a kubelet that has just started.
    young = answered(listed, replace(late, kubelet="second"))
    assert young.handed_out == {"MIG-2": 1.0}


def test_allocations_that_nobody_follows_are_forgotten() -> None:
    many = Holdings()
    for hour in range(10):
        many = handed_out(many, [f"MIG-{hour}"], hour * 3601.0)
    assert many.handed_out.keys() == {"MIG-9"}


def test_what_the_daemon_knows_of_a_device_reaches_another_process() -> None:
    known = handed_out(answered(Holdings(), answer(0, {**ALL, "MIG-1::2": (TWO,)})), ["MIG-7"], 5)
    there = from_json(to_json(known, ["MIG-1", "MIG-7"], 8.0), 100.0)
    assert there == Holdings(
        holders={"MIG-1": (ONE,), "MIG-1::2": (TWO,)}, handed_out={"MIG-7": 97.0}, own_seen=True
    )
    assert not there.trusted


def test_two_pods_with_one_id_are_a_conflict() -> None:
    side = Holder("ml", "one", "side")
    assert conflicts({"MIG-1": (ONE, side), "MIG-2::0": (ONE,), "MIG-2::1": (TWO,)}) == ()
    (sentence,) = conflicts({"MIG-1": (ONE, TWO)})
    assert sentence.startswith("MIG-1 is held by 2 pods: ml/one, ml/two")


# ---- any sequence of answers

IDS = ("MIG-1", "MIG-2", "MIG-3", "MIG-4")
#: How long kubelet takes to list all pods once it lists ours, or the first one: within the rules.
RELISTED = SETTLE_SECONDS - 1


@dataclass
class World:
    """A node as it really is, with a kubelet that lists its pods late after each start."""

    has_file: bool
    now: float = 1000.0
    kubelet: int = 0
    started: float = 0.0
    ours_from: float = 0.0
    running: dict[str, Holder] = field(default_factory=dict)
    listed_from: dict[str, float] = field(default_factory=dict)
    recorded: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    number: int = 0

    def allocate(self, name: str, lag: float) -> bool:
        if name in self.running:
            return False
        self.number += 1
        self.running[name] = Holder("ml", f"pod-{self.number}", "main")
        self.recorded[name] = self.now + lag
        self.listed_from[name] = self.now
        return True

    def end(self, name: str) -> None:
        if self.running.pop(name, None):
            self.ended.add(name)

    def restart(self, away: float, late: list[float]) -> None:
        # An Allocate that kubelet had not recorded is made again, and the pod is another one.
        self.running = {n: h for n, h in self.running.items() if self.recorded[n] <= self.now}
        self.kubelet += 1
        self.started = self.now
        self.ours_from = self.now + away
        self.listed_from = {
            name: self.ours_from + late[number % len(late)]
            for number, name in enumerate(self.running)
        }

    def ask(self) -> Answer:
        seen = {
            name: (holder,)
            for name, holder in self.running.items()
            if max(self.recorded[name], self.listed_from[name]) <= self.now
        }
        own = self.ours_from <= self.now
        written = {name for name in self.running if self.recorded[name] <= self.now}
        return Answer(
            at=self.now,
            kubelet=self.kubelet,
            up=self.now - self.started,
            holders=seen,
            pods=len(seen) + own,
            own=own,
            checkpoint=frozenset(written | self.ended) if self.has_file else None,
        )


#: Few values, some of them just inside the rules, so that sequences which matter are found.
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, SETTLE_SECONDS - 2, 15.0, 70.0])),
    st.tuples(st.just("ask"), st.just(0)),
    st.tuples(st.just("ask"), st.just(0)),
    st.tuples(st.just("fail"), st.just(0)),
    st.tuples(
        st.just("allocate"),
        st.sampled_from(IDS),
        st.sampled_from([0.0, 0.1, HANDED_OUT_SECONDS - 1]),
    ),
    st.tuples(st.just("end"), st.sampled_from(IDS)),
    st.tuples(
        st.just("restart"),
        st.sampled_from([0.0, 1.5, 5.0, 300.0]),  # the API server may be away
        st.lists(st.sampled_from([-RELISTED, 0.0, 0.5, RELISTED]), min_size=1, max_size=4),
    ),
)


def happens(world: World, known: Holdings, step: tuple[object, ...]) -> Holdings:
    match step:
        case "wait", float(seconds):
            world.now += seconds
        case "ask", _:
            return answered(known, world.ask())
        case "fail", _:
            return unanswered(known)
        case "allocate", str(name), float(lag):
            if world.allocate(name, lag):
                return handed_out(known, [name], world.now)
        case "end", str(name):
            world.end(name)
        case "restart", float(away), list(late):
            world.restart(away, late)
    return known


@settings(max_examples=500)
@given(st.booleans(), st.lists(STEPS, max_size=40))
def test_what_a_pod_holds_is_never_believed_free(
    has_file: bool,  # noqa: FBT001 — drawn
    steps: list[tuple[object, ...]],
) -> None:
    world = World(has_file)
    known = answered(Holdings(), world.ask())
    for step in steps:
        known = happens(world, known, step)
        current = as_of(known, world.now)
        held = current.holders.keys() | current.handed_out.keys()
        if current.is_known:
            assert world.running.keys() <= held
        if world.running:
            assert not current.certainly_free
