"""What is kept on disk: by one process, the newest last, and whatever somebody writes there."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.partition.configuration import Wanted
from plugin.core.partition.indices import Place
from plugin.core.partition.order import Order, Source
from plugin.core.partition.precedence import NOTHING, Command, Label, Labelled, Memory
from plugin.core.partition.progress import State
from plugin.core.partition.tracks import Before
from plugin.core.partition.trouble import Code
from plugin.partition.keeping import Keeper
from plugin.partition.memory import MemoryFile
from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import parse_node
from tests.partition_rig import devices, inline, remembered, rig, uuids
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
    keeper, found = Keeper(file), list[Order | None]()
    keeper.on_order = lambda: found.append(keeper.memory.order)
    await keeper.claim()
    saving = asyncio.create_task(keeper.given(Command(ORDER, "")))
    assert await asyncio.to_thread(file.begun.wait, 10)
    assert found == [None]
    if given_up:
        saving.cancel()
    cancelling = asyncio.create_task(keeper.given(Command(None, "")))
    await asyncio.sleep(0)
    file.may_go_on.set()
    assert await cancelling == ""
    await asyncio.gather(saving, return_exceptions=True)
    assert MemoryFile(file.path).load() == keeper.memory == Memory(None, "")
    assert found == [None, ORDER, None]
    await keeper.release()


@pytest.mark.asyncio
async def test_who_does_not_have_the_lock_writes_nothing(tmp_path: Path) -> None:
    one, two = (Keeper(MemoryFile(tmp_path / MEMORY), inline) for _ in range(2))
    await one.claim()
    await two.claim()
    assert await one.given(Command(ORDER, "")) == ""
    assert await one.begins([GPU]) == ""
    content = (tmp_path / MEMORY).read_bytes()
    assert "another process" in await two.given(Command(OTHER, ""))
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

            here.keeper.on_order = take_up
            here.order("all-1g.6gb")
            await here.settled()
            assert here.progress.trouble is not None
            assert here.progress.trouble.code is Code.BUSY
            await other.given(Command(Order("all-4g.24gb", Source.COMMAND), ""))
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


# ---- files that somebody removes


@pytest.mark.parametrize("left", [None, "{", "[]"], ids=["nothing", "torn", "other"])
def test_what_is_known_here_outlasts_the_files(tmp_path: Path, left: str | None) -> None:
    async def main() -> None:
        node = parse_node("2xa30-24gb:all-1g.6gb")
        folder = tmp_path / "ledger"
        order = Order("all-4g.24gb", Source.COMMAND)
        async with rig(node, folder) as here:

            def take_up() -> None:
                here.executor.want(here.keeper.memory.order)

            here.keeper.on_order = take_up
            here.hold("train", uuids(node, 1)[0])
            await here.keeper.given(Label(Labelled("key", "all-2g.12gb"), "all-balanced"))
            await here.keeper.given(Command(order, "all-balanced"))
            await here.settled()
            known = here.keeper.memory
            assert known.order is order
            shutil.rmtree(folder)
            if left is not None:
                folder.mkdir()
                (folder / MEMORY).write_text(left)
            await asyncio.sleep(60)
            assert here.keeper.memory == remembered(folder) == known
            here.held.clear()
            assert (await here.ended()).state is State.SUCCESS
            assert here.progress.configuration == order.name

    run(main())


def test_what_another_process_has_ordered_meanwhile_holds(tmp_path: Path) -> None:
    async def main() -> None:
        folder = tmp_path / "ledger"
        here, other = (Keeper(MemoryFile(folder / MEMORY), inline) for _ in range(2))
        found: list[Order | None] = []
        here.on_order = lambda: found.append(here.memory.order)
        assert await here.given(Command(ORDER, "")) == ""
        here.placed(ORDER, {"GPU-1": Place(0)})  # not saved yet
        shutil.rmtree(folder)
        assert await other.given(Command(OTHER, "")) == ""
        await other.release()
        assert await here.claim() is None
        assert here.memory == Memory(OTHER, "")
        assert found == [None, ORDER, OTHER]
        await here.release()

    run(main())


def test_only_the_lock_is_removed(tmp_path: Path) -> None:
    async def main() -> None:
        here = Keeper(MemoryFile(tmp_path / MEMORY), inline)
        found: list[Order | None] = []
        here.on_order = lambda: found.append(here.memory.order)
        assert await here.given(Command(ORDER, "")) == ""
        (tmp_path / f"{MEMORY}.lock").unlink()
        assert await here.claim() is None
        assert here.lease == 2
        # The order is not a new one.
        assert here.memory.order is ORDER
        assert found == [None, ORDER]
        await here.release()

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
NEW = {**WHOLE, "gpus": {"GPU-1": {"index": 0, "pci_bus_id": "0000:07:00.0"}}}


def test_a_file_of_the_version_before_is_loaded(tmp_path: Path) -> None:
    label = {"key": "nvidia.com/mig.config", "value": "all-2g.12gb", "refused": False}
    (tmp_path / MEMORY).write_text(json.dumps({**WHOLE, "label": label, "insteadOf": "x" * 600}))
    memory = remembered(tmp_path)
    assert memory.order is not None
    assert memory.order.name == "mine"
    assert memory.labelled == Labelled("nvidia.com/mig.config", "all-2g.12gb")
    assert (memory.option, memory.places) == ("x" * 600, {})
    assert memory.changing.keys() == {"GPU-1"}


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


@given(put=st.sampled_from(places(NEW)), odd=ODD)
def test_whatever_is_in_the_file_it_is_loaded_or_left(
    tmp_path_factory: pytest.TempPathFactory, put: Callable[[object], object], odd: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_text(json.dumps(put(odd)))
    memory = MemoryFile(path).load() or NOTHING
    MemoryFile(path).save(memory)
    assert MemoryFile(path).load() == memory
