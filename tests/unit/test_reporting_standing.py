"""A feature that a mistake of ours has ended runs again, and an end of ours ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from plugin.reporting.standing import AGAIN_SECONDS, Standing

from .virtual_time import run

Failing = Callable[[], Coroutine[Any, Any, None]]


async def fail() -> None:
    raise RuntimeError("a mistake")


async def fail_in_a_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        tasks.create_task(asyncio.sleep(3600))


async def fail_at_the_end() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await fail_in_a_group()


@pytest.mark.parametrize("failing", [fail, fail_in_a_group])
def test_a_mistake_is_told_while_it_comes_again(
    failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        standing, runs = Standing("it"), 0

        async def fail_three_times() -> None:
            nonlocal runs
            runs += 1
            if runs <= 3:
                await failing()
            await asyncio.sleep(3600)

        task = asyncio.create_task(standing.keep(fail_three_times))
        for _ in range(3):
            await asyncio.sleep(AGAIN_SECONDS)
            (problem,) = standing.problems
            assert problem.startswith("it: ")
        await asyncio.sleep(2 * AGAIN_SECONDS)
        assert standing.problems == ()
        assert runs == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert [bool(each.exc_info) for each in caplog.records] == [True]


def test_what_ends_well_is_not_run_again() -> None:
    run(Standing("it").keep(lambda: asyncio.sleep(1)))


def test_a_mistake_at_the_end_keeps_nobody_from_ending() -> None:
    async def main() -> None:
        task = asyncio.create_task(Standing("it").keep(fail_at_the_end))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
