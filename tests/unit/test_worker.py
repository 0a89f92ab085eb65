"""The driver's own thread: one call after another, and a hung one blocks nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from plugin.driver.worker import DriverWorker


class Hang:
    """A call that blocks until it is released."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        self.released.wait(10)
        return "late"


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.released.set()


@pytest.fixture
def worker() -> DriverWorker:
    worker = DriverWorker()
    worker.start()
    return worker


@pytest.mark.asyncio
async def test_a_call_runs_in_a_thread_that_does_not_keep_the_process_alive(
    worker: DriverWorker,
) -> None:
    thread = await worker.call(threading.current_thread)
    assert thread is not threading.main_thread()
    assert thread.daemon


@pytest.mark.asyncio
async def test_arguments_results_and_errors_come_through(worker: DriverWorker) -> None:
    assert await worker.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await worker.call(divmod, 1, 0)
    assert await worker.call(divmod, 9, 2) == (4, 1)


@pytest.mark.asyncio
async def test_calls_run_one_after_another_in_order(worker: DriverWorker) -> None:
    done: list[int] = []
    await asyncio.gather(*(worker.call(done.append, number) for number in range(20)))
    assert done == list(range(20))


@pytest.mark.asyncio
async def test_a_hung_call_blocks_neither_the_loop_nor_its_giving_up(
    hang: Hang, worker: DriverWorker
) -> None:
    waiting = asyncio.create_task(worker.call(hang))
    await asyncio.to_thread(hang.entered.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    hang.released.set()
    assert await worker.call(len, "abc") == 3


@pytest.mark.asyncio
async def test_how_long_a_call_has_been_running_can_be_told(
    hang: Hang, worker: DriverWorker
) -> None:
    assert worker.busy_seconds == 0
    call = asyncio.create_task(worker.call(hang))
    await asyncio.to_thread(hang.entered.wait, 10)
    earlier, later = worker.busy_seconds, worker.busy_seconds
    assert 0 < earlier <= later
    hang.released.set()
    assert await call == "late"
    async with asyncio.timeout(10):
        while worker.busy_seconds:  # noqa: ASYNC110 — the thread sets it, and has no event for it
            await asyncio.sleep(0)


def test_a_loop_that_has_ended_does_not_end_the_thread(hang: Hang, worker: DriverWorker) -> None:

    async def give_up() -> None:
        call = asyncio.create_task(worker.call(hang))
        await asyncio.to_thread(hang.entered.wait, 10)
        call.cancel()

    asyncio.run(give_up())
    hang.released.set()
    assert asyncio.run(worker.call(len, "abc")) == 3


@pytest.mark.asyncio
async def test_making_a_worker_starts_no_thread_and_its_calls_are_refused() -> None:
    before = threading.active_count()
    worker = DriverWorker()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="has not been started"):
        await worker.call(len, "abc")
