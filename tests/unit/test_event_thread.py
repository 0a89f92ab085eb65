"""The thread that waits for events: however it ends, the event loop hears of it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from plugin.driver.base import DriverEvent
from plugin.driver.event_thread import EventThread
from plugin.errors import DriverCallFailed


class Failing:
    """A source whose first wait fails."""

    def __init__(self, error: Exception) -> None:
        self.failures: dict[str, str] = {}
        self.unsupported: frozenset[str] = frozenset()
        self._error = error

    def wait(self, seconds: float) -> DriverEvent | None:
        del seconds
        raise self._error

    def close(self) -> None:
        return


@pytest.mark.asyncio
async def test_a_failure_of_the_driver_is_the_answer() -> None:
    lost = DriverCallFailed("waiting for events: GPU is lost", code=15, gpu_lost=True)
    thread = EventThread(Failing(lost), lambda _: None, lambda: None)
    thread.start()
    async with asyncio.timeout(5):
        assert await thread.ended is lost
    assert not thread.alive.done()


@pytest.mark.asyncio
async def test_an_error_that_no_source_should_raise_is_raised_to_whoever_asks() -> None:
    thread = EventThread(Failing(ValueError("not an event")), lambda _: None, lambda: None)
    thread.start()
    with pytest.raises(ValueError, match="not an event"):
        async with asyncio.timeout(5):
            await thread.ended


@pytest.mark.asyncio
async def test_making_one_starts_no_thread() -> None:
    before = threading.active_count()
    source = Failing(ValueError("asked before the start"))
    thread = EventThread(source, lambda _: None, lambda: None)
    assert threading.active_count() == before
    assert not thread.ended.done()
