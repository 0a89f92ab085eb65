"""A pulse wakes those who wait, each time it fires, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from plugin.loops.pulse import Pulse

pytestmark = pytest.mark.asyncio


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_everyone_who_waits_wakes() -> None:
    pulse = Pulse()
    waiting = [asyncio.create_task(pulse.wait()) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    pulse.fire()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)


async def test_a_pulse_that_is_over_wakes_nobody() -> None:
    pulse = Pulse()
    pulse.fire()
    late = asyncio.create_task(pulse.wait())
    await settle()
    assert not late.done()
    pulse.fire()
    async with asyncio.timeout(10):
        await late


async def test_each_pulse_wakes_once() -> None:
    pulse, woken = Pulse(), 0

    async def count() -> None:
        nonlocal woken
        while True:
            await pulse.wait()
            woken += 1

    counting = asyncio.create_task(count())
    await settle()
    for number in (1, 2, 3):
        pulse.fire()
        await settle()
        assert woken == number
    counting.cancel()
    await asyncio.wait([counting])


async def test_a_wait_begins_with_its_call() -> None:
    """Also when the loop has not run the task yet."""
    pulse = Pulse()
    waiting = asyncio.create_task(pulse.wait())
    pulse.fire()
    async with asyncio.timeout(10):
        await waiting
