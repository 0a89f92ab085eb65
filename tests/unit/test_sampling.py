"""When use is sampled, and what is shown of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.advertise.advertisement import Advertisement
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Samples
from plugin.core.rest import LONGEST_INTERVAL_SECONDS, USUAL_INTERVAL_SECONDS, Looks
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.loops.heartbeats import GRACE_SECONDS, Heartbeats
from plugin.loops.store import Store
from plugin.state.sampling import Sampler
from plugin.state.writer import Writer

from . import virtual_time

#: Of sampling, in seconds.
EVERY = 15.0


@pytest.mark.parametrize(
    ("looks", "rests"),
    [
        ([0.0], 180.0),
        ([0.0, 15.0], 105.0),
        ([0.0, 15.0, 30.0, 45.0], 90.0),
        ([0.0, 60.0, 120.0], 300.0),
        ([0.0, 300.0, 600.0], 1500.0),
        ([0.0, 301.0], 481.0),
    ],
)
def test_work_rests_after_three_intervals(looks: list[float], rests: float) -> None:
    first, *others = looks
    seen = Looks(first)
    for now in others:
        seen = seen.again(now)
    assert seen.rest_at(EVERY) == rests


@given(
    every=st.floats(1.0, 600.0),
    interval=st.floats(0.1, LONGEST_INTERVAL_SECONDS),
    count=st.integers(2, 20),
)
def test_who_looks_regularly_never_finds_it_at_rest(
    every: float, interval: float, count: int
) -> None:
    seen = Looks(0.0)
    for turn in range(1, count):
        if turn > 1 or interval <= USUAL_INTERVAL_SECONDS:
            assert turn * interval < seen.rest_at(every)
        seen = seen.again(turn * interval)


@dataclass
class Hardware:
    """A driver that counts, and a worker that calls it at once."""

    rounds: list[float] = field(default_factory=list)
    stopped: int = 0

    def sample(self) -> Samples:
        now = asyncio.get_running_loop().time()
        self.rounds.append(now)
        return Samples(now, 0.0, {}, {})

    def stop_sampling(self) -> None:
        self.stopped += 1

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


@dataclass
class Node:
    """As much of a writer as a sampler asks."""

    is_open: bool = True
    store: Store = field(
        default_factory=lambda: Store(
            Snapshot(1, Settings(sample_seconds=EVERY), Inventory(), Advertisement())
        )
    )


@dataclass
class Running:
    sampler: Sampler
    hardware: Hardware
    heartbeats: Heartbeats
    node: Node


def sampled(story: Callable[[Running], Any]) -> None:
    """Run a story beside a sampler, in virtual time."""

    async def main() -> None:
        hardware, node = Hardware(), Node()
        heartbeats = Heartbeats(asyncio.get_running_loop().time)
        sampler = Sampler(
            cast("Writer", node),
            cast("Driver", hardware),
            cast("DriverWorker", hardware),
            heartbeats,
        )
        task = asyncio.create_task(sampler.run())
        await story(Running(sampler, hardware, heartbeats, node))
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(main())


def test_it_rests_when_nobody_looks_and_shows_nothing_then() -> None:
    async def story(on: Running) -> None:
        await asyncio.sleep(3 * EVERY - 1)
        assert on.sampler.samples is not None
        assert not on.sampler.is_resting
        await asyncio.sleep(EVERY)
        assert on.sampler.samples is None
        assert on.sampler.is_resting
        rounds = len(on.hardware.rounds)
        await asyncio.sleep(1000 * EVERY)
        assert (len(on.hardware.rounds), on.hardware.stopped) == (rounds, 1)
        assert on.heartbeats.stuck() == ()

    sampled(story)


def test_a_look_after_a_rest_finds_nothing_and_the_next_one_fresh_samples() -> None:
    async def story(on: Running) -> None:
        await asyncio.sleep(100 * EVERY)
        before = len(on.hardware.rounds)
        on.sampler.looked("/metrics")
        assert on.sampler.samples is None
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(2.0)
        # Two rounds soon one after the other, since activity lies between two.
        assert [time - now for time in on.hardware.rounds[before:]] == [0.0, 1.0]
        assert on.sampler.samples is not None
        assert on.sampler.samples.time == now + 1.0
        assert not on.sampler.is_resting

    sampled(story)


@pytest.mark.parametrize("interval", [5.0, 30.0, 60.0, 240.0])
def test_a_scraper_finds_samples_of_now_from_its_third_look_on(interval: float) -> None:
    async def story(on: Running) -> None:
        seen = []
        for _ in range(8):
            await asyncio.sleep(interval)
            seen.append(on.sampler.samples)
            on.sampler.looked("/metrics")
        now = asyncio.get_running_loop().time()
        ages = [now - sample.time for sample in seen[-1:] if sample is not None]
        assert all(sample is not None for sample in seen[2:])
        assert [age <= EVERY for age in ages] == [True]

    sampled(story)


def test_somebody_at_the_page_does_not_make_a_scraper_miss_a_round() -> None:
    async def story(on: Running) -> None:
        for turn in range(240):
            await asyncio.sleep(1.0)
            if turn < 110:
                on.sampler.looked("/")
            if turn % 60 == 30:
                on.sampler.looked("/metrics")
            assert on.sampler.samples is not None

    sampled(story)


def test_a_driver_that_is_not_open_is_not_sampled_and_the_loop_lives_on() -> None:
    async def story(on: Running) -> None:
        on.node.is_open = False
        await asyncio.sleep(EVERY)
        assert on.hardware.rounds == []
        assert on.sampler.samples is None
        on.node.is_open = True
        await asyncio.sleep(EVERY)
        assert on.sampler.samples is not None
        on.sampler.looked("/metrics")
        await asyncio.sleep(GRACE_SECONDS + EVERY)
        assert on.heartbeats.stuck() == ()

    sampled(story)
