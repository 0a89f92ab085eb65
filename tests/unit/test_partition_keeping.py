"""What is kept on disk: by one process, the newest last, and whatever somebody writes there."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.partition.configuration import Wanted
from plugin.core.partition.order import Order, Source
from plugin.core.partition.progress import State
from plugin.core.partition.run import Before
from plugin.core.partition.trouble import Code
from plugin.partition.keeping import Keeper
from plugin.partition.memory import Memory, MemoryFile
from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import parse_node
from tests.partition_rig import devices, inline, rig, uuids
from tests.partitioning import inventory
from tests.unit.virtual_time import run

ORDER = Order("all-1g.5gb", Source.COMMAND)
OTHER = Order("all-balanced", Source.COMMAND)
(GPU,) = inventory(parse_node("1xa30-24gb:all-1g.6gb")).gpus


class Slow(MemoryFile):
    """Its first save takes until it may go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def save(self, memory: Memory) -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.may_go_on.wait(10)
        super().save(memory)


@pytest.mark.asyncio
@pytest.mark.parametrize("given_up", [False, True])
async def test_a_slow_write_does_not_bring_back_what_was_before(
    tmp_path: Path,
    given_up: bool,  # noqa: FBT001
) -> None:
    file = Slow(tmp_path / MEMORY)
    keeper = Keeper(file)
    await keeper.claim()
    saving = asyncio.create_task(keeper.ordered(ORDER, ""))
    assert await asyncio.to_thread(file.begun.wait, 10)
    if given_up:
        saving.cancel()
    cancelling = asyncio.create_task(keeper.ordered(None, ""))
    await asyncio.sleep(0)
    file.may_go_on.set()
    assert await cancelling == ""
    await asyncio.gather(saving, return_exceptions=True)
    assert MemoryFile(file.path).load() == keeper.memory == Memory(None, "")
    await keeper.release()


@pytest.mark.asyncio
async def test_who_does_not_have_the_lock_writes_nothing(tmp_path: Path) -> None:
    one, two = (Keeper(MemoryFile(tmp_path / MEMORY), inline) for _ in range(2))
    await one.claim()
    await two.claim()
    assert await one.ordered(ORDER, "") == ""
    assert await one.begins([GPU]) == ""
    content = (tmp_path / MEMORY).read_bytes()
    assert "another process" in await two.ordered(OTHER, "")
    assert "another process" in await two.begins([GPU])
    assert (tmp_path / MEMORY).read_bytes() == content
    # Then it goes on from what the other one has left, but for its own order.
    await one.release()
    assert await two.claim() is None
    assert two.memory == Memory(OTHER, "", one.memory.changing)
    await two.release()


def test_a_process_goes_on_from_what_another_has_left(tmp_path: Path) -> None:
    """The command without a daemon has ended when the daemon gets the lock."""

    async def main() -> None:
        node = parse_node("1xa30-24gb:all-2g.12gb")
        other = Keeper(MemoryFile(tmp_path / MEMORY), inline)
        await other.claim()
        async with rig(node, tmp_path) as here:

            def take_up() -> None:
                here.executor.want(here.keeper.memory.order)

            here.keeper.on_found = take_up
            here.order("all-1g.6gb")
            await here.settled()
            assert here.progress.trouble is not None
            assert here.progress.trouble.code is Code.BUSY
            await other.ordered(Order("all-4g.24gb", Source.COMMAND), "")
            had = Before(Wanted.of({"2g.12gb": 2}), frozenset(uuids(node, 0)))
            await other.holds({node.gpu(0).uuid: had})
            await other.release()
            async with asyncio.timeout(60):
                while here.progress.state is not State.SUCCESS:
                    await here.executor.rounds.wait()
            assert (await here.ended()).configuration == "all-4g.24gb"
            assert devices(node) == [{"4g.24gb": 1}]
            assert here.keeper.memory.changing == {}

    run(main())


# ---- a full disk


def test_while_nothing_can_be_saved_nothing_leaves_service(tmp_path: Path) -> None:
    async def main() -> None:
        node = parse_node("2xa30-24gb:all-1g.6gb")
        async with rig(node, tmp_path) as here:
            here.disk.full = True
            here.hold("train", uuids(node, 1)[0])
            here.order("all-4g.24gb")
            await asyncio.sleep(60)
            assert here.progress.state is State.WAITING
            assert here.progress.trouble is not None
            assert here.progress.trouble.code is Code.NOT_SAVED
            assert len(here.lists) == 1
            assert here.healthy() == {"1g.6gb": 8}
            here.disk.full = False
            await asyncio.sleep(60)
            assert devices(node)[0] == {"4g.24gb": 1}
            assert here.healthy() == {"4g.24gb": 1}

    run(main())


def test_a_disk_that_fills_up_meanwhile_brings_devices_back(tmp_path: Path) -> None:
    async def main() -> None:
        node = parse_node("1xa30-24gb:all-1g.6gb")
        async with rig(node, tmp_path) as here:

            async def tell(_: int) -> bool:
                here.disk.full = True
                return True

            here.tell = tell  # type: ignore[method-assign, assignment]
            here.order("all-4g.24gb")
            await asyncio.sleep(60)
            assert here.worker.changes == 0
            assert here.healthy() == {"1g.6gb": 4}
            assert here.progress.trouble is not None
            assert here.progress.trouble.code is Code.NOT_SAVED

    run(main())


# ---- what somebody writes there

BEFORE = {"geometry": {"mig": True, "devices": {"1g.6gb": 4}}, "uuids": ["MIG-1"]}
ENTRY = {"devices": "all", "mig-enabled": True, "mig-devices": {"1g.6gb": 4}}
FILE = {"version": "v1", "mig-configs": {"mine": [ENTRY]}}
WHOLE: dict[str, Any] = {
    "version": 1,
    "order": {"name": "mine", "source": "command", "policy": "wait", "file": FILE},
    "insteadOf": "",
    "changing": {"GPU-1": BEFORE},
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"x": None}),
    st.just("x" * 1000),
)


def places(value: object) -> list[Callable[[object], object]]:
    """Functions that put something else at each place of a document."""
    items: list[tuple[Any, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    inside = (replacing(value, key, put) for key, inner in items for put in places(inner))
    return [lambda odd: odd, *inside]


def replacing(value: Any, key: Any, put: Callable[[object], object]) -> Callable[[object], object]:
    def function(odd: object) -> object:
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[key] = put(odd)
        return copy

    return function


@given(put=st.sampled_from(places(WHOLE)), odd=ODD)
def test_whatever_is_in_the_file_it_is_loaded_or_left(
    tmp_path_factory: pytest.TempPathFactory, put: Callable[[object], object], odd: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_text(json.dumps(put(odd)))
    memory = MemoryFile(path).load()
    MemoryFile(path).save(memory)
    assert MemoryFile(path).load() == memory
