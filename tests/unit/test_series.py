"""Few Events a minute, one for each cause, and the newest state always among them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.notices import MOST_BYTES, Kind, Notice, Pod
from plugin.core.series import (
    BURST,
    SECONDS_PER_EVENT,
    SERIES_SECONDS,
    UPDATE_SECONDS,
    Outbox,
    Post,
    failed,
    noted,
    taken,
)

POD = Pod("default", "train")


def notice(cause: str = "fault", topic: str = "health/0", pod: Pod | None = None) -> Notice:
    return Notice(pod, Kind.WARNING, "DeviceFault", f"{cause} happened", "Act", cause, topic)


def told(posts: Sequence[Post]) -> list[tuple[str, int, bool]]:
    return [(post.notice.cause, post.count, post.is_new) for post in posts]


def test_a_notice_is_sent_at_once() -> None:
    step = taken(noted(Outbox(), [notice(), notice(pod=POD)], 100.0), 100.0)
    assert [post.notice.pod for post in step.posts] == [None, POD]
    assert step.look_again is None
    assert taken(step.outbox, 200.0).posts == ()


def test_a_cause_that_repeats_is_one_event_with_a_count() -> None:
    outbox = taken(noted(Outbox(), [notice()], 0.0), 0.0).outbox
    for second in range(1, 50):
        outbox = noted(outbox, [notice()], float(second))
    step = taken(outbox, 50.0)
    assert (step.posts, step.look_again) == ((), UPDATE_SECONDS)
    (post,) = taken(step.outbox, UPDATE_SECONDS).posts
    assert (post.count, post.is_new, post.first, post.last) == (50, False, 0.0, 49.0)


@pytest.mark.parametrize(
    ("silence", "expected"),
    [(SERIES_SECONDS, ("fault", 2, False)), (SERIES_SECONDS + 1, ("fault", 1, True))],
)
def test_after_a_silence_a_cause_is_an_event_of_its_own(
    silence: float, expected: tuple[str, int, bool]
) -> None:
    outbox = taken(noted(Outbox(), [notice()], 0.0), 0.0).outbox
    assert told(taken(noted(outbox, [notice()], silence), silence).posts) == [expected]


def test_a_storm_is_told_slowly_and_the_node_first() -> None:
    pods = [notice(f"fault/{n}", f"health/{n}", Pod("default", f"pod-{n}")) for n in range(20)]
    step = taken(noted(Outbox(), [*pods, notice()], 0.0), 0.0)
    assert len(step.posts) == BURST
    assert step.posts[0].notice.pod is None
    assert step.look_again == SECONDS_PER_EVENT
    assert len(taken(step.outbox, SECONDS_PER_EVENT).posts) == 1


def drained(outbox: Outbox, now: float) -> tuple[Outbox, list[Post], float]:
    """Everything that waits, sent as soon as it may be."""
    posts: list[Post] = []
    for _ in range(1000):
        step = taken(outbox, now)
        outbox, posts = step.outbox, [*posts, *step.posts]
        if step.look_again is None:
            return outbox, posts, now
        assert step.look_again > now
        assert len(step.posts) <= BURST
        now = step.look_again
    raise AssertionError("it never ends")


EMPTY = Outbox(tokens=0.0, at=0.0)


def test_what_cannot_be_sent_gives_way_to_the_newest_and_is_counted() -> None:
    outbox = EMPTY
    for second, cause in enumerate(("fault", "recovery", "fault", "other")):
        outbox = noted(outbox, [notice(cause)], float(second))
    _, posts, _ = drained(outbox, 4.0)
    (post,) = posts
    assert post.notice.message == "other happened (3 earlier changes were not reported)"


def test_what_happens_together_is_told_together() -> None:
    _, posts, _ = drained(noted(EMPTY, [notice("one"), notice("two")], 0.0), 0.0)
    assert told(posts) == [("one", 1, True), ("two", 1, True)]


def test_topics_and_objects_do_not_displace_each_other() -> None:
    outbox = noted(EMPTY, [notice("one"), notice("two", "cordon/0"), notice("three", pod=POD)], 0)
    outbox = noted(outbox, [notice("four", "answers/0")], 1.0)
    _, posts, _ = drained(outbox, 1.0)
    assert [post.notice.cause for post in posts] == ["one", "two", "four", "three"]


def test_a_message_stays_short_with_the_count_of_what_was_left_out() -> None:
    long = replace(notice("two"), message="ü" * 512)
    outbox = noted(noted(EMPTY, [notice("one")], 0.0), [long], 1.0)
    _, (post,), _ = drained(outbox, 1.0)
    assert len(post.notice.message.encode()) <= MOST_BYTES
    assert post.notice.message.endswith("ü… (1 earlier changes were not reported)")


def test_what_was_not_delivered_waits_again() -> None:
    step = taken(noted(Outbox(), [notice()], 0.0), 0.0)
    outbox = noted(failed(step.outbox, step.posts[0]), [notice()], 1.0)
    assert told(taken(outbox, 1.0).posts) == [("fault", 2, True)]


def test_what_was_not_delivered_does_not_come_after_what_is_newer() -> None:
    step = taken(noted(Outbox(), [notice("fault")], 0.0), 0.0)
    later = taken(noted(step.outbox, [notice("recovery")], 1.0), 1.0)
    assert told(later.posts) == [("recovery", 1, True)]
    outbox, posts, _ = drained(failed(later.outbox, step.posts[0]), 2.0)
    assert posts == []
    _, posts, _ = drained(noted(outbox, [notice("fault")], 9.0), 9.0)
    assert told(posts) == [("fault", 1, True)]


def test_a_clock_that_stands_still_gives_no_tokens() -> None:
    step = taken(EMPTY, 0.0)
    assert taken(noted(step.outbox, [notice()], 0.0), 0.0).posts == ()


# ---- any course of things

causes = st.sampled_from(["fault", "recovery", "cordon", "uncordon"])
batches = st.lists(
    st.builds(
        lambda cause, device, pod: notice(
            f"{cause}/{device}",
            f"{'health' if cause in {'fault', 'recovery'} else 'cordon'}/{device}",
            POD if pod else None,
        ),
        causes,
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=6,
)
courses = st.lists(
    st.tuples(st.floats(0.125, 500.0), batches, st.sets(st.integers(0, 20), max_size=4)),
    max_size=12,
)


@given(courses)
def test_few_are_sent_none_is_uncounted_and_the_last_is_how_things_stand(
    course: list[tuple[float, list[Notice], set[int]]],
) -> None:
    outbox, now, offered = Outbox(), 0.0, 0
    times: list[float] = []
    newest: dict[tuple[Pod | None, str], set[str]] = {}
    delivered: list[Post] = []
    for wait, batch, failing in course:
        now += wait
        for each in batch:
            newest[each.pod, each.topic] = set()
        for each in batch:
            newest[each.pod, each.topic].add(each.cause)
        offered += len(batch)
        step = taken(noted(outbox, batch, now), now)
        outbox = step.outbox
        times += [now] * len(step.posts)
        for number, post in enumerate(step.posts):
            if number in failing:
                outbox = failed(outbox, post)
            else:
                delivered.append(post)
    outbox, rest, _ = drained(outbox, now)
    delivered += rest
    for first, at in enumerate(times):
        within = sum(at <= time < at + 60.0 for time in times[first:])
        assert within <= BURST + 60.0 / SECONDS_PER_EVENT
    for (pod, topic), last in newest.items():
        sent = [p for p in delivered if (p.notice.pod, p.notice.topic) == (pod, topic)]
        assert max(sent, key=lambda post: post.last).notice.cause in last
    counted = sum(post.count - post.before.sent + post.before.left_out for post in delivered)
    kept = sum(each.left_out for each in outbox.series.values())
    assert counted + kept == offered
