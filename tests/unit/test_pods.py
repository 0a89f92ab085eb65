"""Who holds which device: asked on schedule and soon after an allocation; unknown is not nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import pytest

from plugin.core.holders import STALE_SECONDS, Answer, Holdings
from plugin.core.view import Holder
from plugin.errors import KubeletError
from plugin.kubelet.podresources.pods import SCHEDULE_SECONDS, SETTLE_SECONDS, PodFollower

from .virtual_time import run, settle

HELD: Mapping[str, tuple[Holder, ...]] = {"MIG-1": (Holder("ml", "a", "main"),)}


class Kubelet:
    """Answers what it was given; ``asked`` are times by the loop's clock."""

    def __init__(self) -> None:
        self.answer: Mapping[str, tuple[Holder, ...]] | KubeletError = HELD
        self.asked: list[float] = []

    @property
    def clock(self) -> Callable[[], float]:
        return asyncio.get_running_loop().time

    async def ask(self, known: Holdings) -> Answer:
        del known
        self.asked.append(asyncio.get_running_loop().time())
        if isinstance(self.answer, KubeletError):
            raise self.answer
        return Answer(
            at=self.clock(),
            kubelet=(1, 2, 3),
            up=3600.0,
            holders=self.answer,
            pods=2,
            own=True,
        )


def test_on_schedule_and_after_an_allocation() -> None:
    async def scene() -> None:
        kubelet = Kubelet()
        pods = PodFollower(kubelet)
        task = asyncio.create_task(pods.run())
        await settle()
        assert pods.holdings.holders == HELD
        await asyncio.sleep(SCHEDULE_SECONDS + SETTLE_SECONDS)
        await settle()
        assert len(kubelet.asked) == 2
        before = asyncio.get_running_loop().time()
        for _ in range(50):  # a burst is one question
            pods.allocated(["MIG-2"])
        await asyncio.sleep(SETTLE_SECONDS)
        await settle()
        assert kubelet.asked[2:] == [before + SETTLE_SECONDS]
        task.cancel()

    run(scene())


def test_what_is_done_then_is_done_once_an_answer() -> None:
    async def scene() -> None:
        kubelet = Kubelet()
        pods = PodFollower(kubelet)
        done: list[float] = []

        async def then() -> None:
            done.append(kubelet.clock())

        task = asyncio.create_task(pods.run(then))
        await asyncio.sleep(3 * SCHEDULE_SECONDS)
        assert done == kubelet.asked
        kubelet.answer = KubeletError("no answer")
        await asyncio.sleep(3 * SCHEDULE_SECONDS)
        assert len(done) < len(kubelet.asked) - 1  # whoever is silent is not asked more
        task.cancel()

    run(scene())


def test_silence_is_unknown_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        kubelet = Kubelet()
        pods = PodFollower(kubelet)
        task = asyncio.create_task(pods.run())
        await settle()
        kubelet.answer = KubeletError("no answer")
        await asyncio.sleep(STALE_SECONDS + SCHEDULE_SECONDS)
        assert not pods.current().is_known
        assert pods.holdings.holders == HELD
        kubelet.answer = {}
        await asyncio.sleep(2 * SCHEDULE_SECONDS)
        assert pods.current().is_known
        assert pods.holdings.holders == {}
        kubelet.answer = KubeletError("no answer")
        await asyncio.sleep(2 * SCHEDULE_SECONDS)
        task.cancel()

    with caplog.at_level(logging.WARNING):
        run(scene())
    assert [record.getMessage() for record in caplog.records] == ["pod resources unavailable"] * 2
