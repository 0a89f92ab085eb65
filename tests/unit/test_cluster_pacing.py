"""Pauses between requests, on a clock of numbers."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.cluster.pacing import Pacing

HOUR = 3600.0


def paced(jitter: float = 0.5) -> Pacing:
    return Pacing(lambda: jitter)


def test_without_failures_there_is_no_pause() -> None:
    pacing = paced()
    pacing.begin(0)
    pacing.succeeded("a")
    assert (pacing.wait(0), pacing.wait_for("a", 0), pacing.failures) == (0, 0, 0)


def test_an_outage_holds_up_every_request_until_one_succeeds() -> None:
    pacing = paced()
    pacing.away("a", 0)
    assert pacing.wait_for("b", 0) == pacing.wait(0) == 1.5
    pacing.succeeded("b")
    assert (pacing.wait_for("b", 0), pacing.wait(0)) == (0, 0)
    assert pacing.wait_for("a", 0) == 1.5, "what failed keeps its own pause"


def test_an_attempt_in_an_outage_holds_up_the_others() -> None:
    pacing = paced()
    pacing.away("a", 0)
    pacing.begin(1.5)
    assert pacing.wait_for("b", 1.5) == 1.5


def test_an_error_of_500_holds_up_only_those_that_have_failed() -> None:
    pacing = paced()
    pacing.away("a", 0, general=False)
    assert (pacing.wait(0), pacing.wait_for("b", 0)) == (0, 0)
    assert pacing.wait_for("a", 0) >= 1.5
    pacing.away("b", 0, general=False)
    assert pacing.wait_for("b", 0) >= 3.0
    pacing.away("c", 0)
    assert pacing.wait_for("d", 0) == pacing.wait(0) == 6.0


def test_in_an_outage_the_call_with_fewer_failures_goes_first() -> None:
    pacing = paced()
    for _ in range(3):
        pacing.away("a", 0)
    pacing.away("b", 0)
    assert pacing.wait(0) < pacing.wait_for("b", 0) < pacing.wait_for("a", 0)


def test_a_refusal_holds_up_that_request_alone_and_ends_an_outage() -> None:
    pacing = paced()
    pacing.away("a", 0)
    pacing.refused("b", 2, 403)
    assert (pacing.wait_for("b", 2), pacing.wait_for("c", 2), pacing.failures) == (1.5, 0, 0)


@pytest.mark.parametrize("code", [409, 410])
def test_two_conflicts_in_a_row_have_no_pause(code: int) -> None:
    pacing = paced()
    waits = []
    for _ in range(4):
        pacing.refused("a", 0, code)
        waits.append(pacing.wait_for("a", 0))
    assert waits == [0, 0, 1.5, 3.0]
    pacing.succeeded("a")
    pacing.refused("a", 0, code)
    assert pacing.wait_for("a", 0) == 0


@pytest.mark.parametrize("seconds", [0.0, 30.0, HOUR])
def test_the_servers_pause_counts_if_it_is_longer(seconds: float) -> None:
    pacing = paced()
    pacing.away("a", 0, seconds)
    assert pacing.wait_for("b", 0) == max(1.5, seconds)
    pacing = paced()
    pacing.refused("a", 0, 403, seconds)
    assert pacing.wait_for("a", 0) == max(1.5, seconds)


@given(
    callers=st.integers(1, 12),
    took=st.floats(0, 30),
    seed=st.integers(0, 2**32),
)
def test_an_outage_of_hours_costs_at_most_a_try_a_minute(
    callers: int, took: float, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 — chance, not secrecy
    pacing = Pacing(chance.random)
    now, tries = 0.0, []
    while now < 6 * HOUR:
        call = str(chance.randrange(callers))
        if (pause := pacing.wait_for(call, now)) > 0:
            # Another may be due sooner.
            now += max(1e-3, min(pacing.wait_for(str(each), now) for each in range(callers)))
            assert pause >= 0
            continue
        tries.append(now)
        pacing.begin(now)
        now += took
        pacing.away(call, now)
    late = [at for at in tries if at >= 600]
    assert all(b - a >= 60 - 1e-6 for a, b in itertools.pairwise(late))
    assert len(late) >= 6 * 60 / 2 * 0.8 - 10, "and is noticed once it ends"


def test_what_is_remembered_of_failing_calls_is_bounded() -> None:
    pacing = paced()
    for number in range(1000):
        pacing.refused(str(number), 0, 403)
    assert sum(pacing.wait_for(str(number), 0) > 0 for number in range(1000)) == 64
