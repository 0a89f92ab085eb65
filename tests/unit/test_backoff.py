"""Delays between attempts."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.loops.backoff import delays


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
