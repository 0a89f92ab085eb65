"""The file system of the ledger hangs: nothing else waits for it, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from plugin.assembly import Edges, assemble
from plugin.commands.partition_lines import summary
from plugin.core.partition.order import Order, Source
from plugin.core.partition.precedence import Command
from plugin.core.partition.progress import State
from plugin.core.partition.trouble import Code
from plugin.core.settings import MigStrategy, Settings
from plugin.errors import ControlError
from plugin.loops.aside import Aside
from plugin.partition.keeping import Keeper
from plugin.partition.memory import MemoryFile
from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from tests.integration.waiting import becomes
from tests.partition_rig import devices, inline, remembered, rig
from tests.unit.virtual_time import run

NODE = "1xa30-24gb:all-1g.6gb"
COMMANDED = Order("all-4g.24gb", Source.COMMAND)


class Server:
    """In place of another thread: answers unless it is away."""

    away = False

    async def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.away:
            raise TimeoutError("the last call has not returned")
        return function(*args)


async def remember(folder: Path, order: Order, instead_of: str = "") -> None:
    keeper = Keeper(MemoryFile(folder / MEMORY), inline)
    assert await keeper.claim() is None
    assert await keeper.given(Command(order, instead_of)) == ""
    await keeper.release()


def test_what_is_not_on_disk_is_not_begun_and_goes_on_by_itself(tmp_path: Path) -> None:
    server = Server()

    async def main() -> None:
        async with rig(parse_node(NODE), tmp_path, in_thread=server) as here:
            server.away = True
            problem = await here.keeper.given(Command(COMMANDED, ""))
            assert problem == f"the file system of {tmp_path / MEMORY} does not answer"
            here.executor.want(COMMANDED)
            await asyncio.sleep(60)
            assert (here.worker.changes, len(here.lists)) == (0, 1)
            assert here.progress.state is State.PENDING
            assert here.progress.trouble is not None
            assert here.progress.trouble.code is Code.NOT_ANSWERING
            server.away = False
            assert (await here.ended()).state is State.SUCCESS
            assert devices(here.node) == [{"4g.24gb": 1}]
            assert here.keeper.silence == ""
            assert remembered(tmp_path).order == COMMANDED

    run(main())


@pytest.mark.parametrize("order", [None, Order("all-1g.6gb", Source.COMMAND)])
def test_what_needs_no_change_is_saved_when_the_disk_answers(
    tmp_path: Path, order: Order | None
) -> None:
    server = Server()

    async def main() -> None:
        await remember(tmp_path, COMMANDED)
        async with rig("1xa30-24gb:all-4g.24gb", tmp_path, in_thread=server) as here:
            here.executor.want(COMMANDED)
            await here.ended()
            server.away = True
            assert await here.keeper.given(Command(order, ""))
            here.executor.want(order)
            await asyncio.sleep(60)
            assert remembered(tmp_path).order == COMMANDED
            server.away = False
            await asyncio.sleep(60)
            assert remembered(tmp_path).order == order

    run(main())


def test_a_hang_in_the_middle_of_a_change_lets_it_end(tmp_path: Path) -> None:
    server = Server()

    async def main() -> None:
        async with rig(parse_node(NODE), tmp_path, in_thread=server) as here:

            def away(number: int) -> None:
                server.away = number == 1 or server.away

            here.worker.before = away
            here.order(COMMANDED.name)
            await asyncio.sleep(60)
            assert devices(here.node) == [{"4g.24gb": 1}]
            assert here.healthy() == {"4g.24gb": 1}
            assert remembered(tmp_path).changing
            server.away = False
            await here.ended()
            assert not remembered(tmp_path).changing

    run(main())


@pytest.mark.parametrize(
    ("code", "is_an_answer"),
    [
        (errno.ETIMEDOUT, False),
        (errno.EIO, False),
        (errno.ESTALE, False),
        (errno.ENOTCONN, False),
        (errno.EACCES, True),
        (errno.EINVAL, True),
        (errno.ENOENT, True),
    ],
)
@pytest.mark.asyncio
async def test_a_server_that_is_away_has_not_said_that_nothing_was_wanted(
    tmp_path: Path,
    code: int,
    is_an_answer: bool,  # noqa: FBT001
) -> None:
    def refuse(path: Path, _: int) -> bytes:
        raise OSError(code, os.strerror(code), str(path))

    found: list[bool] = []
    keeper = Keeper(MemoryFile(tmp_path / MEMORY, refuse), inline)
    keeper.on_order = lambda: found.append(True)
    problem = await keeper.claim()
    assert keeper.known is is_an_answer
    assert (problem is None) is bool(found) is is_an_answer
    if problem is not None:
        assert problem.text.endswith(f" does not answer: {os.strerror(code)}")
    await keeper.release()


# ---- the start


class Away(type(Path())):  # type: ignore[misc]
    """A path of a file system whose server may be away."""

    answers = threading.Event()

    def mkdir(self, *args: Any, **kwargs: Any) -> None:
        self.answers.wait(20)
        super().mkdir(*args, **kwargs)

    def exists(self, **kwargs: Any) -> bool:
        self.answers.wait(20)
        return bool(super().exists(**kwargs))


@contextlib.asynccontextmanager
async def starting(folder: Path, config: str) -> AsyncIterator[tuple[SimNode, Edges]]:
    """A daemon whose file system hangs once the node is scanned."""
    node = parse_node(NODE)
    settings = Settings(
        mig_strategy=MigStrategy.MIXED,
        kubelet_socket="",
        control_socket="",
        partition_config=config,
    )
    Away.answers.set()
    daemon = assemble(settings, simulate(node).driver, Away(folder / "ledger.json"))
    await daemon.start()
    Away.answers.clear()
    edges = daemon.edges()
    edges.partitioning.aside = Aside("partitioning", 0.01)
    running = asyncio.create_task(edges.partitioning.run())
    try:
        async with asyncio.timeout(20):
            yield node, edges
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        Away.answers.set()


@pytest.mark.asyncio
async def test_the_option_does_not_overrule_what_cannot_be_read_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await remember(tmp_path, COMMANDED, "all-balanced")
    async with starting(tmp_path, "all-balanced") as (node, edges):
        room = edges.partitioning
        await room.started(0.1)
        assert "the configuration is not applied yet, going on" in caplog.messages
        silent = f"the file system of {tmp_path / MEMORY} does not answer"
        await becomes(lambda: room.problem == silent)  # after 5 s
        assert "which configuration is wanted is not known" in caplog.messages
        assert edges.overview().notes == (silent,)
        status = await room.perform(["status"])
        assert (status["state"], status["reason"]["text"]) == ("pending", silent)
        assert summary(status, 0.0) == f"which configuration is wanted is not known: {silent}"
        # At once: nobody waits for a call that was given up.
        for arguments in (["apply", "all-2g.12gb", "", ""], ["cancel"]):
            with pytest.raises(ControlError, match=r"partition\.json does not answer"):
                await room.perform(arguments)
        refused = await room.labelled("all-2g.12gb")
        assert refused is not None
        assert refused.code is Code.NOT_ANSWERING
        assert devices(node) == [{"1g.6gb": 4}]
        Away.answers.set()
        await becomes(lambda: devices(node) == [{"4g.24gb": 1}])
        await room.started()
        progress = room.progress()
        assert progress is not None
        assert (progress.configuration, progress.source) == (COMMANDED.name, Source.COMMAND)
        assert edges.overview().notes == ()


@pytest.mark.asyncio
async def test_without_anything_wanted_it_is_idle_once_that_is_known(tmp_path: Path) -> None:
    async with starting(tmp_path, "") as (node, edges):
        await edges.partitioning.started(0.1)
        assert edges.partitioning.problem == f"the file system of {tmp_path} does not answer"
        Away.answers.set()
        await edges.partitioning.started()
        progress = edges.partitioning.progress()
        assert progress is not None
        assert (progress.state, progress.trouble) == (State.IDLE, None)
        assert devices(node) == [{"1g.6gb": 4}]


@pytest.mark.asyncio
async def test_the_end_does_not_wait_for_what_hangs(tmp_path: Path) -> None:
    async with starting(tmp_path, "all-balanced") as (_, edges):
        await edges.partitioning.started(0.05)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2
