"""The control socket's verbs and manners, on a simulated node in this process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from plugin.control.client import ask
from plugin.control.server import MOST_CLIENTS, REQUEST_BYTES, Control
from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.settings import MigStrategy, Settings
from plugin.driver.worker import DriverWorker
from plugin.errors import ControlError, NotRunning
from plugin.loops.heartbeats import Heartbeats
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.sim.verbs import perform
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer

pytestmark = pytest.mark.asyncio

PATIENCE = 10.0


@dataclass
class Running:
    """A node with its control socket."""

    socket: Path
    node: Writer
    hardware: SimNode
    ledger: Path

    async def ask(self, verb: str, *arguments: str) -> Any:
        return await asyncio.to_thread(ask, str(self.socket), verb, *arguments)

    async def talk(self, *parts: bytes, end: bool = False) -> Any:
        """Send bytes as they are and return the answer."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        for part in parts:
            writer.write(part)
        if end:
            writer.write_eof()
        try:
            async with asyncio.timeout(PATIENCE):
                return json.loads(await reader.readline())
        finally:
            writer.close()

    def reasons(self, uuid: str) -> tuple[str, ...]:
        listed = (
            item
            for items in self.node.store.snapshot.advertisement.resources.values()
            for item in items
        )
        reasons = next(item.reasons for item in listed if item.device.uuid == uuid)
        return tuple(reason.text for reason in reasons)


async def listens(control: Control) -> None:
    async with asyncio.timeout(PATIENCE):
        await control.listening.wait()


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory(prefix="mdp-") as folder:  # a unix socket's path is short
        hardware = parse_node("2xa100-40gb:0=1g.5gb*7;1=3g.20gb*2")
        ledger, path = Path(folder) / "ledger.json", Path(folder) / "run" / "control.sock"
        ledger_file = LedgerFile(ledger)
        worker = DriverWorker()
        worker.start()
        node = Writer(
            simulate(hardware).driver,
            worker,
            Settings(mig_strategy=MigStrategy.MIXED),
            ledger_file,
        )
        await node.start()
        control = Control(path, node, functools.partial(perform, hardware))
        tasks = [asyncio.create_task(control.run()), asyncio.create_task(ledger_file.run())]
        await listens(control)
        yield Running(path, node, hardware, ledger)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not path.exists()


def uuids(hardware: SimNode, gpu: int) -> list[str]:
    return [slot.ci.uuid for slot in hardware.gpu(gpu).devices()]


# ---- verbs


async def test_status_is_the_document_of_devices(running: Running) -> None:
    status = await running.ask("status")
    assert (status["source"], status["generation"]) == (
        "daemon",
        running.node.store.snapshot.generation,
    )
    assert status["resources"]["nvidia.com/mig-1g.5gb"] == {"devices": 7, "healthy": 7}


@pytest.mark.parametrize("by", ["index", "uuid"])
async def test_a_cordoned_device_is_down_until_it_is_uncordoned(running: Running, by: str) -> None:
    uuid = uuids(running.hardware, 0)[3]
    target = uuid if by == "uuid" else "0:3"
    answer = await running.ask("cordon", target)
    assert (answer["uuid"], answer["devices"], answer["warning"]) == (uuid, [uuid], None)
    assert answer["text"] == f"MIG device 0:3 ({uuid}) is cordoned"
    assert running.reasons(uuid) == ("cordoned",)
    status = await running.ask("status")
    assert status["cordoned"] == [uuid]
    assert status["resources"]["nvidia.com/mig-1g.5gb"]["healthy"] == 6
    assert "was cordoned already" in (await running.ask("cordon", target))["text"]
    assert "is no longer cordoned" in (await running.ask("uncordon", target))["text"]
    assert running.reasons(uuid) == ()
    assert "was not cordoned" in (await running.ask("uncordon", target))["text"]


async def test_a_gpus_cordon_holds_for_all_that_is_on_it(running: Running) -> None:
    gpu, on_it = running.hardware.gpu(1).uuid, uuids(running.hardware, 1)
    assert (await running.ask("cordon", "1"))["devices"] == [gpu, *on_it]
    assert [running.reasons(uuid) for uuid in on_it] == [("cordoned",)] * 2
    text = (await running.ask("uncordon", "1:0"))["text"]
    assert text.endswith("was not cordoned, but its GPU is: uncordon 1")
    assert running.reasons(on_it[0]) == ("cordoned",)


async def test_an_answer_comes_when_the_cordon_is_on_disk(running: Running) -> None:
    uuid = (await running.ask("cordon", "0:0"))["uuid"]
    assert uuid in running.ledger.read_text()
    await running.ask("uncordon", "0:0")
    assert uuid not in running.ledger.read_text()


async def test_a_cordon_that_cannot_be_saved_says_so(running: Running) -> None:
    running.ledger.mkdir()  # so that no file can be put there
    assert "not saved and ends with the daemon" in (await running.ask("cordon", "0:0"))["warning"]
    assert running.reasons(uuids(running.hardware, 0)[0]) == ("cordoned",)


async def test_a_cordon_of_a_gpu_that_was_pulled_can_be_taken_back(running: Running) -> None:
    gpu = running.hardware.gpu(1).uuid
    await running.ask("cordon", "1")
    running.hardware.remove_gpu(1)
    scanning = asyncio.create_task(running.node.run(Heartbeats()))
    running.node.rescan()
    async with asyncio.timeout(PATIENCE):
        while len(running.node.store.snapshot.inventory.gpus) > 1:
            await running.node.store.newer_than(running.node.store.snapshot.generation)
    scanning.cancel()
    assert (await running.ask("status"))["cordoned"] == [gpu]
    assert (
        "which is not there now, is no longer cordoned"
        in (await running.ask("uncordon", gpu))["text"]
    )


async def test_clearing_takes_faults_back_and_leaves_the_cordon(running: Running) -> None:
    slot = next(running.hardware.gpu(0).devices())
    uuid, gpu = slot.ci.uuid, running.hardware.gpu(0).uuid
    running.node.on_event(DriverEvent(EventKind.XID, gpu, slot.gi.id, slot.ci.id, 95))
    await running.ask("cordon", uuid)
    assert "is cleared of 1 of 1 fault" in (await running.ask("clear", "0:0"))["text"]
    assert running.reasons(uuid) == ("cordoned",)
    assert "had nothing to clear" in (await running.ask("clear", "0:0"))["text"]


async def test_clearing_a_gpu_counts_what_its_parts_lose_and_not_what_it_keeps(
    running: Running,
) -> None:
    slot, gpu = next(running.hardware.gpu(0).devices()), running.hardware.gpu(0).uuid
    running.node.on_event(DriverEvent(EventKind.XID, gpu, slot.gi.id, slot.ci.id, 95))
    assert "is cleared of 1 of 1 fault" in (await running.ask("clear", "0"))["text"]
    assert running.reasons(slot.ci.uuid) == ()
    running.node.on_event(DriverEvent(EventKind.XID, gpu, data=79))
    running.node.on_probes([Probe(gpu, recovery_action=1)])
    assert "is cleared of 1 of 2 faults" in (await running.ask("clear", "0"))["text"]
    assert running.reasons(slot.ci.uuid) == ("the driver asks to reset the GPU",)
    assert "is cleared of 0 of 1 fault" in (await running.ask("clear", "0"))["text"]


async def test_what_happens_to_a_simulated_node(running: Running) -> None:
    assert "changed GPU 1" in (await running.ask("sim", "repartition", "1=7g.40gb"))["text"]
    assert len(uuids(running.hardware, 1)) == 1


@pytest.mark.parametrize(
    ("verb", "arguments", "expected"),
    [
        ("cordon", ["7"], "no device '7' on this node; choose a UUID or one of 0, 0:0"),
        ("cordon", [], "cordon does not take 0 arguments"),
        ("status", ["now"], "status does not take 1 arguments"),
        ("sim", [], "sim does not take 0 arguments"),
        ("sim", ["explode"], "unknown sim command 'explode'"),
        (
            "explode",
            [],
            "unknown verb 'explode'; choose status, settings, cordon, uncordon, clear,",
        ),
    ],
)
async def test_mistakes_are_answered(
    running: Running, verb: str, arguments: Sequence[str], expected: str
) -> None:
    with pytest.raises(ControlError) as refused:
        await running.ask(verb, *arguments)
    assert expected in str(refused.value)


async def test_a_real_node_takes_no_sim_verbs(running: Running) -> None:
    path = running.socket.parent / "other.sock"
    control = Control(path, running.node)
    task = asyncio.create_task(control.run())
    await listens(control)
    with pytest.raises(ControlError, match="runs on a real driver"):
        await asyncio.to_thread(ask, str(path), "sim", "lose", "0")
    task.cancel()


# ---- strange clients


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\n", "one line of JSON"),
        (b"cordon 0\n", "one line of JSON"),
        (b"\xff\xfe\n", "one line of JSON"),
        (b"[" * (REQUEST_BYTES - 10) + b"\n", "one line of JSON"),
        (b"[]\n", "a request is {"),
        (b'{"verb": 3, "arguments": []}\n', "a request is {"),
        (b'{"verb": "status"}\n', "a request is {"),
        (b'{"verb": "cordon", "arguments": [0]}\n', "a request is {"),
        (b"x" * REQUEST_BYTES * 2, "at most 65536 bytes"),
        (b"y" * REQUEST_BYTES * 2 + b"\n", "at most 65536 bytes"),
    ],
)
async def test_nonsense_is_answered_and_disturbs_nobody(
    running: Running, request_: bytes, expected: str
) -> None:
    assert expected in (await running.talk(request_))["error"]
    assert (await running.ask("status"))["source"] == "daemon"


async def test_half_a_request_is_answered(running: Running) -> None:
    assert "ends with a line break" in (await running.talk(b'{"verb": "sta', end=True))["error"]


async def test_a_request_may_come_in_pieces(running: Running) -> None:
    assert "ok" in await running.talk(b'{"verb": "sta', b'tus", "arg', b'uments": []}\n')


async def test_clients_that_leave_early_disturb_nobody(running: Running) -> None:
    for request in (b"", b"{", b'{"verb": "status", "arguments": []}\n'):
        for _ in range(20):
            _, writer = await asyncio.open_unix_connection(str(running.socket))
            writer.write(request)
            writer.transport.abort()
    assert (await running.ask("status"))["source"] == "daemon"


async def test_silent_clients_are_few_and_make_room(running: Running) -> None:
    silent = [await asyncio.open_unix_connection(str(running.socket)) for _ in range(MOST_CLIENTS)]
    with pytest.raises(ControlError, match=r"failed|without an answer"):
        await running.ask("status")
    for _, writer in silent[:1]:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                assert (await running.ask("status"))["source"] == "daemon"
                break
            except ControlError:
                continue
    for _, writer in silent[1:]:
        writer.transport.abort()


async def test_who_says_nothing_is_put_out(running: Running) -> None:
    path = running.socket.parent / "other.sock"
    control = Control(path, running.node, client_seconds=0.05)
    task = asyncio.create_task(control.run())
    await listens(control)
    reader, writer = await asyncio.open_unix_connection(str(path))
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b""
    writer.close()
    task.cancel()


async def test_stopping_ends_what_clients_still_wait_for(running: Running) -> None:
    path = running.socket.parent / "other.sock"
    control = Control(path, running.node)
    task = asyncio.create_task(control.run())
    await listens(control)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"{")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with contextlib.suppress(ConnectionResetError):  # where it had not been accepted yet
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
    writer.close()
    assert not path.exists()


# ---- the asking side


async def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(NotRunning, match=rf"nothing listens on {path}; .* with --control-socket"):
        ask(str(path), "status")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotRunning, match=f"nothing listens on {path}"):
        ask(str(path), "status")
    with pytest.raises(NotRunning, match="switched off"):
        ask("", "status")


async def test_an_answer_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, str(path))
    with pytest.raises(ControlError, match=r"without an answer|failed"):
        await asyncio.to_thread(ask, str(path), "status")
    server.close()
