"""The ledger's file under running daemons: who saves in it, and what may stand in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from plugin.control.client import ask
from plugin.sim.kubelet.kubelet import SimKubelet

from .conftest import Daemon, StartDaemon
from .waiting import SECONDS, becomes

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "2xa100-40gb:all-1g.5gb"

pytestmark = pytest.mark.asyncio


async def command(socket: Path, verb: str, target: str) -> dict[str, Any]:
    answer: dict[str, Any] = await asyncio.to_thread(ask, str(socket), verb, target)
    return answer


async def cordons(socket: Path) -> set[str]:
    status: dict[str, Any] = await asyncio.to_thread(ask, str(socket), "status")
    return set(status["cordoned"])


def on_disk(node_dir: Path) -> set[str]:
    devices = json.loads((node_dir / "ledger.json").read_text())["devices/v1"]
    return {uuid for uuid, entry in devices.items() if entry["reasons"]}


def ledgers_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "ledger" in path.name]


async def test_two_daemons_on_one_ledger_lose_no_cordon_that_was_saved(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    first_socket, second_socket = node_dir / "a.sock", node_dir / "b.sock"
    first = await start_daemon(NODE, CONTROL_SOCKET=str(first_socket))
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    second = await start_daemon(
        NODE,
        CONTROL_SOCKET=str(second_socket),
        KUBELET_SOCKET=str(node_dir / "elsewhere" / "kubelet.sock"),
    )
    await second.logged("the ledger cannot be saved")
    assert "another daemon saves its ledger in this file" in second.log
    await becomes(second_socket.exists)

    saved = await command(first_socket, "cordon", "0:1")
    assert saved["warning"] is None
    unsaved = await command(second_socket, "cordon", "0:2")
    assert unsaved["warning"].startswith("this is not saved and ends with the daemon: ")
    assert on_disk(node_dir) == {saved["uuid"]}
    again = await command(second_socket, "cordon", "0:2")
    assert "was cordoned already" in again["text"]
    assert again["warning"]

    await first.stop(signal.SIGKILL)
    await second.logged("another process has changed the ledger, merging both")
    await second.logged("the ledger can be saved again")
    both = {saved["uuid"], unsaved["uuid"]}
    assert await cordons(second_socket) == both
    assert on_disk(node_dir) == both
    assert (await command(second_socket, "cordon", "0:3"))["warning"] is None

    assert await second.stop() == 0
    assert ledgers_in(node_dir) == ["ledger.json"]


async def test_a_pipe_as_ledger_holds_nobody_up(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    os.mkfifo(node_dir / "ledger.json")
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await daemon.logged("the ledger cannot be read, starting without")
    answer = await command(node_dir / "control" / "control.sock", "cordon", "0:1")
    assert "is not a regular file" in answer["warning"]
    assert await daemon.stop() == 0


async def test_a_planted_link_leads_nowhere(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    """Also where earlier versions wrote, which anybody could foresee."""
    victim = node_dir / "victim"
    victim.write_text("precious")
    daemon = await start_daemon(NODE)
    (node_dir / f".ledger.json.{daemon.process.pid}").symlink_to(victim)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    answer = await command(node_dir / "control" / "control.sock", "cordon", "0:1")
    assert answer["warning"] is None
    assert on_disk(node_dir) == {answer["uuid"]}
    assert victim.read_text() == "precious"


async def test_half_characters_in_the_ledger_break_no_page(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    first = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    control = node_dir / "control" / "control.sock"
    uuid = (await command(control, "cordon", "0:1"))["uuid"]
    assert await first.stop() == 0
    path = node_dir / "ledger.json"
    document = json.loads(path.read_text())
    (reason,) = document["devices/v1"][uuid]["reasons"]
    reason |= {"code": "xid-\ud800", "text": "half a character: \ud83d", "clears": "operator"}
    document["devices/v1"]["GPU-\udfff"] = document["devices/v1"][uuid] | {"gpu": "GPU-\udfff"}
    path.write_text(json.dumps(document))
    second = await start_daemon(NODE, HTTP_ADDRESS="127.0.0.1:0")
    await kubelet.wait_allocatable(ONE_SLICE, 13, SECONDS)
    await second.logged("serving HTTP")
    for page in ("/", "/metrics", "/api/v1/state"):
        status, text = await asyncio.to_thread(get, second, page)
        assert status == 200
        assert "half a character: ?" in text or page == "/metrics"
    assert "Traceback" not in second.log
    assert uuid in (await command(control, "uncordon", uuid))["text"]


def get(daemon: Daemon, page: str) -> tuple[int, str]:
    port = re.search(r"serving HTTP.*\bport=(\d+)", daemon.log)
    assert port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{page}", timeout=SECONDS) as answer:
        return answer.status, answer.read().decode()
