"""One writer, many readers, and nothing but the newest snapshot."""

from __future__ import annotations

import asyncio

import pytest

from plugin.core.advertise.advertisement import Advertisement
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.loops.store import Store


def generation(number: int) -> Snapshot:
    return Snapshot(number, Settings(), Inventory(), Advertisement())


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_newest_snapshot_is_kept() -> None:
    store = Store(generation(0))
    store.publish(generation(1))
    assert store.snapshot == generation(1)


@pytest.mark.parametrize("number", [0, 3, 4])
def test_generations_only_grow(number: int) -> None:
    store = Store(generation(4))
    with pytest.raises(ValueError, match=f"generation {number} is not newer than 4"):
        store.publish(generation(number))
    assert store.snapshot == generation(4)


@pytest.mark.asyncio
async def test_what_is_already_newer_is_there_at_once() -> None:
    store = Store(generation(2))
    async with asyncio.timeout(10):
        assert await store.newer_than(1) == generation(2)


@pytest.mark.asyncio
async def test_every_waiting_reader_wakes() -> None:
    store = Store(generation(0))
    readers = [asyncio.create_task(store.newer_than(0)) for _ in range(3)]
    await settle()
    assert not any(reader.done() for reader in readers)
    store.publish(generation(1))
    async with asyncio.timeout(10):
        assert await asyncio.gather(*readers) == [generation(1)] * 3


@pytest.mark.asyncio
async def test_a_reader_waits_on_until_what_it_wants_is_there() -> None:
    store = Store(generation(0))
    reader = asyncio.create_task(store.newer_than(2))
    for number in (1, 2):
        store.publish(generation(number))
        await settle()
        assert not reader.done()
    store.publish(generation(3))
    async with asyncio.timeout(10):
        assert await reader == generation(3)


@pytest.mark.asyncio
async def test_a_follower_sees_the_first_and_the_newest_of_a_burst() -> None:
    store = Store(generation(0))
    seen: list[int] = []

    async def follow() -> None:
        async for snapshot in store.follow():
            seen.append(snapshot.generation)  # noqa: PERF401 — the loop never ends by itself

    follower = asyncio.create_task(follow())
    await settle()
    for number in (1, 2, 3):
        store.publish(generation(number))
    await settle()
    follower.cancel()
    await asyncio.wait([follower])
    assert seen == [0, 3]
