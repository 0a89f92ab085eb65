"""Waiting for one of several things."""

from __future__ import annotations

import asyncio

import pytest

from plugin.loops.first import first_of

from .virtual_time import run


def test_the_first_ends_the_wait_and_the_others() -> None:
    ended: list[str] = []

    async def waits(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(name)

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        await first_of(waits("long", 60), waits("short", 1))
        assert asyncio.get_running_loop().time() - began == 1
        await asyncio.sleep(0)
        assert ended == ["short", "long"]
        # Cancelled, it leaves nothing behind.
        task = asyncio.create_task(first_of(waits("a", 60), waits("b", 60)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert ended[2:] == ["a", "b"]

    run(main())


def test_its_error_is_raised() -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise LookupError("x")

    async def main() -> None:
        with pytest.raises(LookupError):
            await first_of(asyncio.sleep(60), fails())

    run(main())
