"""What changes something runs at most once, whatever hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from plugin.driver.hangs import GpuRef, Hangs, Hung, about, caller
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import DriverUnavailable, OutcomeUnknown

GPU = GpuRef(3, "GPU-3")
#: What is to hang does so for good; what is not has all the time of a slow machine.
SOON = Deadlines(gpu=0.05, driver=0.05, change=0.05)
SLOW_CHANGES = Deadlines(gpu=0.05, driver=0.05, change=30.0)


class Card:
    """Instances of GPU 3, made and counted by functions of a driver, in place of NVML. Those that
    are named in ``hanging`` block until ``released`` is set.
    """

    def __init__(self) -> None:
        self.hangs = Hangs()
        self.hanging: set[str] = set()
        self.entered, self.released = threading.Event(), threading.Event()
        self.made: list[str] = []

    def make(self, name: str) -> str:
        with about(GPU):
            self._call("nvmlDeviceGetHandleByUUID", lambda: None)
            self._call("nvmlDeviceCreateGpuInstance", lambda: self.made.append(name))
            self._call("nvmlGpuInstanceGetInfo", lambda: None)
        return name

    def count(self) -> int | None:
        if self.hangs.of_gpu(GPU) is not None:
            return None
        with about(GPU):
            self._call("nvmlDeviceGetGpuInstances", lambda: None)
        return len(self.made)

    def load(self) -> None:
        self.entered.set()
        self.released.wait(10)

    def _call(self, function: str, body: Callable[[], None]) -> None:
        here = caller()
        here.enter(function)
        try:
            if function in self.hanging:
                self.entered.set()
                self.released.wait(10)
            body()
        finally:
            here.leave()


@pytest.fixture
def card() -> Iterator[Card]:
    card = Card()
    yield card
    card.released.set()


def started(card: Card, deadlines: Deadlines = SOON) -> DriverWorker:
    worker = DriverWorker(card.hangs, deadlines)
    worker.start()
    return worker


class Returns:
    """Whether a call that was given up has come back."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __call__(self, hung: Hung, *, returned: bool) -> None:
        del hung
        if returned:
            self.event.set()

    async def wait(self) -> None:
        async with asyncio.timeout(10):
            await self.event.wait()


@pytest.mark.asyncio
async def test_results_and_errors_come_through(card: Card) -> None:
    worker = started(card, Deadlines())
    assert await worker.change(card.make, "a") == "a"
    with pytest.raises(ZeroDivisionError):
        await worker.change(divmod, 1, 0)
    assert card.made == ["a"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("function", "made"),
    [
        ("nvmlDeviceGetHandleByUUID", []),  # never begun: it ends with the call before
        ("nvmlDeviceCreateGpuInstance", ["a"]),  # takes effect late, and once
        ("nvmlGpuInstanceGetInfo", ["a"]),
    ],
)
async def test_a_change_that_hangs_is_never_repeated(
    card: Card, function: str, made: list[str]
) -> None:
    worker, returns = started(card), Returns()
    worker.listen(returns)
    card.hanging = {function}
    with pytest.raises(OutcomeUnknown, match=f"^GPU 3: {function} has not returned for 0") as info:
        await worker.change(card.make, "a")
    assert str(info.value).endswith("and may yet take effect")
    assert await worker.call(card.count) is None  # others go on without the GPU
    card.released.set()
    await returns.wait()
    assert await worker.call(card.count) == len(made)
    assert card.made == made


@pytest.mark.asyncio
async def test_a_change_that_hangs_in_no_call_is_not_repeated_either(card: Card) -> None:
    worker = started(card)
    with pytest.raises(OutcomeUnknown, match=r"^load has not returned for 0"):
        await worker.change(card.load)
    assert await worker.call(len, "abc") == 3


@pytest.mark.asyncio
async def test_a_change_waits_behind_a_hung_call_and_runs_once(card: Card) -> None:
    worker = started(card)
    card.hanging = {"nvmlDeviceGetGpuInstances"}
    counted, made = await asyncio.gather(worker.call(card.count), worker.change(card.make, "a"))
    assert (counted, made, card.made) == (None, "a", ["a"])


@pytest.mark.asyncio
async def test_a_change_may_take_longer_than_a_reading(card: Card) -> None:
    worker = started(card, SLOW_CHANGES)
    card.hanging = {"nvmlDeviceCreateGpuInstance"}
    making = asyncio.create_task(worker.change(card.make, "a"))
    await asyncio.to_thread(card.entered.wait, 10)
    done, _ = await asyncio.wait({making}, timeout=4 * SLOW_CHANGES.gpu)
    assert not done
    assert card.hangs.open == ()
    card.released.set()
    assert await making == "a"


@pytest.mark.asyncio
async def test_a_change_that_nobody_waits_for_does_not_begin(card: Card) -> None:
    worker = started(card, Deadlines())
    blocking = asyncio.create_task(worker.call(card.load))
    await asyncio.to_thread(card.entered.wait, 10)
    making = asyncio.create_task(worker.change(card.make, "a"))
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    card.released.set()
    await blocking
    assert await worker.change(card.make, "b") == "b"
    assert card.made == ["b"]


@pytest.mark.asyncio
async def test_a_change_in_a_thread_that_is_being_left_behind_is_not_repeated(card: Card) -> None:
    worker = started(card, Deadlines())

    def make_while_left() -> None:
        """As when the call before returned in the moment in which it was given up."""
        caller().abandoned = True
        card.make("a")

    with pytest.raises(OutcomeUnknown, match="make_while_left was cut off"):
        await worker.change(make_while_left)
    assert card.made == []


@pytest.mark.asyncio
async def test_the_thread_must_have_been_started() -> None:
    with pytest.raises(RuntimeError, match="has not been started"):
        await DriverWorker().change(len, "abc")


@pytest.mark.asyncio
async def test_what_hung_outside_of_any_call_is_not_begun_again(card: Card) -> None:
    worker = started(card)
    with pytest.raises(OutcomeUnknown):
        await worker.change(card.load)
    with pytest.raises(DriverUnavailable, match="load has not returned"):
        await worker.change(card.load)
