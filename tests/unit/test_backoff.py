"""Delays between attempts."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.loops.backoff import Backoff, delays


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [(1.0, [1, 2, 4, 8, 10, 10]), (0.0, [0.5, 1, 2, 4, 5, 5]), (0.5, [0.75, 1.5, 3, 6, 7.5, 7.5])],
)
def test_delays_double_up_to_the_cap(jitter: float, expected: list[float]) -> None:
    assert list(islice(delays(1, 10, lambda: jitter), 6)) == expected


def test_each_delay_has_a_jitter_of_its_own() -> None:
    numbers = iter([0.0, 1.0, 0.0])
    assert list(islice(delays(2, 2, lambda: next(numbers)), 3)) == [1, 2, 1]


@given(first=st.floats(0.01, 1), factor=st.floats(1, 100), jitter=st.floats(0, 1))
def test_every_delay_lies_between_half_the_first_and_the_cap(
    first: float, factor: float, jitter: float
) -> None:
    cap = first * factor
    assert all(
        first / 2 <= delay <= cap for delay in islice(delays(first, cap, lambda: jitter), 20)
    )


# ---- after failures in a row


def backoff(**options: float) -> Backoff:
    return Backoff(1, 8, well=10, jitter=lambda: 1.0, free=int(options.get("free", 0)))


@pytest.mark.parametrize(
    ("lasted", "expected"),
    [
        ([0, 0, 0, 0, 0, 0], [1, 2, 4, 8, 8, 8]),
        # To begin well, again and again, is not enough.
        ([9.9, 9.9, 9.9], [1, 2, 4]),
        ([0, 0, 10, 0], [1, 2, 1, 2]),
        ([50, 50, 50], [1, 1, 1]),
    ],
)
def test_what_has_stayed_well_ends_the_row(lasted: list[float], expected: list[float]) -> None:
    after = backoff()
    assert [after.failed(seconds) for seconds in lasted] == expected


def test_free_failures_cost_nothing() -> None:
    after = backoff(free=2)
    assert [after.failed() for _ in range(4)] == [0, 0, 1, 2]
    assert after.failures == 4
    assert [after.failed(10), after.failed(), after.failed()] == [0, 0, 1]


def test_a_reset_starts_over() -> None:
    after = backoff()
    assert [after.failed(), after.failed()] == [1, 2]
    after.reset()
    assert (after.failures, after.failed()) == (0, 1)
