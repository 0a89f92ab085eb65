"""The driver's own thread: one call after another, and a hung one blocks nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from plugin.driver.hangs import GpuRef, Hangs, Hung, OpenCall, about, caller
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import DriverUnavailable


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


# ---- calls that hang

SOON = Deadlines(gpu=0.05, driver=0.05, change=0.05)
GPU = GpuRef(3, "GPU-3")


class Library:
    """Jobs of a driver whose calls hang for GPU 3, in place of NVML."""

    def __init__(self) -> None:
        self.hangs, self.released = Hangs(), threading.Event()
        self.asked: list[int] = []
        self.went_on = False

    def scan(self) -> list[int]:
        answered = []
        for index in range(5):
            ref = GpuRef(index, f"GPU-{index}")
            if self.hangs.of_gpu(ref) is not None:
                continue
            with about(ref):
                self._call(index)
            answered.append(index)
        return answered

    def _call(self, index: int) -> None:
        here = caller()
        here.enter("nvmlDeviceGetMigMode")
        try:
            self.asked.append(index)
            if index == GPU.index:
                self.released.wait(10)
        finally:
            here.leave()
        self.went_on |= index == GPU.index

    def load(self) -> str:
        self.released.wait(10)
        return "loaded"


@dataclass
class Heard:
    hung: list[Hung]
    returned: asyncio.Event

    def __call__(self, hung: Hung, *, returned: bool) -> None:
        if returned:
            self.returned.set()
        else:
            self.hung.append(hung)


@pytest.mark.asyncio
async def test_another_thread_does_the_job_without_the_gpu_that_hangs() -> None:
    library, heard = Library(), Heard([], asyncio.Event())
    worker = DriverWorker(library.hangs, SOON)
    worker.listen(heard)
    worker.start()
    first = await worker.call(threading.current_thread)
    assert await worker.call(library.scan) == [0, 1, 2, 4]
    (hung,) = library.hangs.open
    assert heard.hung == [hung]
    assert (hung.call.function, hung.call.gpu) == ("nvmlDeviceGetMigMode", GPU)
    assert str(hung).startswith("nvmlDeviceGetMigMode has not returned for 0.")
    assert await worker.call(threading.current_thread) is not first
    assert worker.busy_seconds > 0  # the call is still out
    assert library.asked == [0, 1, 2, 3, 0, 1, 2, 4]
    library.released.set()
    async with asyncio.timeout(10):
        await heard.returned.wait()
    assert library.hangs.open == ()
    assert not library.went_on  # the stale job ended with its call
    assert await worker.call(library.scan) == [0, 1, 2, 3, 4]


@pytest.mark.asyncio
async def test_what_waits_behind_a_hung_call_is_answered_all_the_same() -> None:
    library = Library()
    worker = DriverWorker(library.hangs, SOON)
    worker.start()
    scanned, length = await asyncio.gather(worker.call(library.scan), worker.call(len, "abc"))
    assert scanned == [0, 1, 2, 4]
    assert length == 3
    library.released.set()


@pytest.mark.asyncio
async def test_a_job_that_hangs_outside_of_any_call_fails_and_is_not_started_again() -> None:
    library = Library()
    worker = DriverWorker(library.hangs, SOON)
    worker.start()
    for _ in range(3):
        with pytest.raises(DriverUnavailable, match=r"load has not returned for 0\.\d+ s"):
            await worker.call(library.load)
    assert len(library.hangs.open) == 1
    assert await worker.call(len, "abc") == 3
    library.released.set()


@pytest.mark.asyncio
async def test_a_job_whose_calls_all_return_may_take_long() -> None:
    worker = DriverWorker(deadlines=SOON)
    worker.start()

    def many() -> str:
        for _ in range(20):
            caller().enter("nvmlDeviceGetName")
            time.sleep(0.01)  # the calls of a slow driver
            caller().leave()
        return "done"

    assert await worker.call(many) == "done"
    assert worker.hangs.open == ()


def test_a_gpu_that_hangs_is_tried_again_ever_later() -> None:
    now = [0.0]
    hangs = Hangs(lambda: now[0], retry_seconds=100)
    call = OpenCall("nvmlDeviceGetName", GPU, -10.0)
    first = hangs.add(call)
    by_index, other = GpuRef(3), GpuRef(4, "GPU-4")
    assert hangs.of_gpu(GPU) == hangs.of_gpu(by_index) == first
    assert hangs.of_gpu(other) is hangs.of_function("nvmlDeviceGetName") is None
    now[0] = 100.0
    assert hangs.of_gpu(GPU) is None
    second = hangs.add(call)
    now[0] = 299.0
    assert hangs.of_gpu(GPU) is second
    now[0] = 300.0
    assert hangs.of_gpu(GPU) is None
    assert hangs.longest() == 310
    hangs.returned(first)
    hangs.returned(second)
    assert (hangs.open, hangs.longest()) == ((), 0.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (GpuRef(1, "a"), GpuRef(1, "a"), True),
        (GpuRef(1, "a"), GpuRef(2, "a"), True),
        (GpuRef(1, "a"), GpuRef(1, "b"), False),
        (GpuRef(1), GpuRef(1, "b"), True),
        (GpuRef(None, "a"), GpuRef(1, "a"), True),
        (GpuRef(None, "a"), GpuRef(1), False),
    ],
)
def test_which_gpu_a_call_was_about(one: GpuRef, other: GpuRef, *, same: bool) -> None:
    assert one.is_same(other) is other.is_same(one) is same


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
