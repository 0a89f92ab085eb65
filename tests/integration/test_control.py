"""Commands to a running daemon, each side a process: cordon, drain, clear, what happens to a
simulated node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.commands.control import FREE, NOT_FREE
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import StartDaemon, plugin_client, sockets
from .waiting import SECONDS, becomes

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "2xa100-40gb:all-1g.5gb"
NOBODY = 65534

pytestmark = pytest.mark.asyncio


@dataclass
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str


class Commands:
    """Runs our commands as processes against the daemon of this test."""

    def __init__(self, node_dir: Path) -> None:
        self.socket = node_dir / "control" / "control.sock"
        self._pods = node_dir / "pods" / "kubelet.sock"
        self._environment = {
            **os.environ,
            "CONTROL_SOCKET": str(self.socket),
            "GRPC_VERBOSITY": "NONE",
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "plugin", *arguments),
            stdout=pipe,
            stderr=pipe,
            env=self._environment,
        )

    async def run(self, *arguments: str) -> Done:
        process = await self.start(*arguments)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def ok(self, *arguments: str) -> str:
        done = await self.run(*arguments)
        assert (done.status, done.err) == (0, "")
        return done.out

    def drain(self, target: str, *more: str) -> tuple[str, ...]:
        return ("drain", target, f"--pod-resources-socket={self._pods}", *more)

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(await self.ok("devices", "--output=json"))
        assert status["source"] == "daemon"
        return status


@pytest.fixture
def commands(node_dir: Path) -> Commands:
    return Commands(node_dir)


@pytest_asyncio.fixture
async def pods(node_dir: Path) -> AsyncIterator[SimKubelet]:
    """A stand-in kubelet that also answers which pod holds what."""
    async with SimKubelet(
        node_dir / "plugins", pod_resources_dir=node_dir / "pods", readmission_s=None, seed=1
    ) as running:
        yield running
    assert running.violations == []


async def held_by(kubelet: SimKubelet, name: str) -> str:
    pod = await kubelet.admit(Pod(name, containers={"main": {ONE_SLICE: 1}}))
    assert pod.phase == "Running", pod.reason
    return pod.device_ids[0]


async def test_a_cordoned_device_is_refused_and_its_pod_goes_on(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    uuid = await held_by(kubelet, "busy")
    assert "is cordoned" in await commands.ok("cordon", uuid)
    await kubelet.wait_allocatable(ONE_SLICE, 13, SECONDS)
    assert kubelet.capacity(ONE_SLICE) == 14
    assert kubelet.pods["default/busy"].phase == "Running"
    assert [name for name, device in kubelet.devices(ONE_SLICE).items() if not device.healthy] == [
        uuid
    ]
    async with plugin_client(sockets(kubelet)[0]) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.Allocate(
                pb.AllocateRequest(
                    container_requests=[pb.ContainerAllocateRequest(devices_ids=[uuid])]
                )
            )
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "unhealthy: cordoned" in str(refused.value.details())
    table = await commands.ok("devices")
    assert table.startswith("as the running daemon sees it, generation ")
    (line,) = (line for line in table.splitlines() if uuid in line)
    assert line.rstrip().endswith("unhealthy: cordoned")
    assert "is no longer cordoned" in await commands.ok("uncordon", uuid)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)


async def test_a_cordon_outlives_a_kill(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    uuid = (await commands.ok("cordon", "1:2")).split("(")[1].split(")")[0]
    daemon.process.kill()
    await daemon.process.wait()
    assert commands.socket.exists(), "what a kill leaves behind is the next one's to clean up"
    await kubelet.wait_allocatable(ONE_SLICE, 0, SECONDS)
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 13, SECONDS)
    assert [name for name, device in kubelet.devices(ONE_SLICE).items() if not device.healthy] == [
        uuid
    ]
    await becomes(lambda: listens(commands.socket))
    assert (await commands.status())["cordoned"] == [uuid]


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(str(path))
        return True
    return False


async def test_a_fault_is_cleared_by_hand(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await commands.ok("sim", "xid", "0:1", "95")
    await kubelet.wait_allocatable(ONE_SLICE, 13, SECONDS)
    (reason,) = (await commands.status())["gpus"][0]["migDevices"][1]["reasons"]
    assert (reason["code"], reason["clears"]) == ("xid-95", "recovery")
    assert "is cleared of 1 of 1 fault" in await commands.ok("health", "clear", "0:1")
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)


async def test_a_geometry_changes_under_the_daemon(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon("2xa100-40gb")
    await kubelet.wait_allocatable("nvidia.com/gpu", 2, SECONDS)
    await commands.ok("sim", "repartition", "1=3g.20gb*2")
    await kubelet.wait_allocatable("nvidia.com/mig-3g.20gb", 2, SECONDS)
    await kubelet.wait_allocatable("nvidia.com/gpu", 1, SECONDS)
    assert (await commands.run("sim", "repartition", "1=9g.90gb")).err.startswith(
        "mig-device-plugin: profile '9g.90gb'"
    )


async def test_drain_waits_for_the_pods_and_says_for_which(
    pods: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon(NODE, ALLOCATION_POLICY="packed")
    await pods.wait_allocatable(ONE_SLICE, 14, SECONDS)
    for name in ("one", "two"):
        await held_by(pods, name)  # packed: both on the first GPU
    process = await commands.start(*commands.drain("0"))
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert b"is cordoned" in await process.stdout.readline()
        assert (
            await process.stdout.readline()
            == b"waiting for 2 containers: default/one (main), default/two (main)\n"
        )
        assert pods.allocatable(ONE_SLICE) == 7
        await pods.delete(Pod("one"))
        assert await process.stdout.readline() == b"waiting for 1 container: default/two (main)\n"
        await pods.delete(Pod("two"))
        assert await process.stdout.readline() == b"drained: no pod holds it\n"
        assert await process.wait() == FREE
    assert len((await commands.status())["cordoned"]) == 1, "drained, and still cordoned"


async def test_drain_counts_shares(
    pods: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    config = commands.socket.parent.parent / "config.json"
    slicing = {"resources": [{"name": ONE_SLICE, "replicas": 2}]}
    config.write_text(json.dumps({"version": "v1", "sharing": {"timeSlicing": slicing}}))
    await start_daemon(NODE, CONFIG_FILE=str(config))
    await pods.wait_allocatable(ONE_SLICE, 28, SECONDS)
    share = await held_by(pods, "sharer")
    uuid, separator, _ = share.partition("::")
    assert separator
    done = await commands.run(*commands.drain(uuid, "--timeout=0.1"))
    assert done.status == NOT_FREE
    assert "waiting for 1 container: default/sharer (main)" in done.out
    assert "not drained within 0.1 s; it stays cordoned" in done.out


async def test_drain_of_what_nobody_holds(
    pods: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon(NODE)
    await pods.wait_allocatable(ONE_SLICE, 14, SECONDS)
    assert "drained: no pod holds it" in await commands.ok(*commands.drain("1"))


async def test_drain_without_kubelets_word_fails_and_leaves_the_cordon(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    done = await commands.run(*commands.drain("1"))
    assert done.status == 1
    assert "no answer; is kubelet running" in done.err
    assert len(done.err.splitlines()) == 1
    await kubelet.wait_allocatable(ONE_SLICE, 7, SECONDS)


@pytest.mark.parametrize(
    "command", ["cordon 0", "uncordon 0", "drain 0", "health clear 0", "sim lose 0"]
)
async def test_without_a_daemon_commands_say_so(commands: Commands, command: str) -> None:
    done = await commands.run(*command.split())
    assert (done.status, done.out) == (1, "")
    assert f"no daemon is running here: nothing listens on {commands.socket}" in done.err
    assert "--control-socket" in done.err
    assert len(done.err.splitlines()) == 1


async def test_devices_looks_by_itself_when_told_or_when_there_is_no_daemon(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    status = json.loads(await commands.ok("devices", f"--simulate={NODE}", "--output=json"))
    assert (status["source"], status["generation"]) == ("scan", None)
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    status = json.loads(await commands.ok("devices", "--simulate=g4dn.12xlarge", "--output=json"))
    assert (status["source"], len(status["gpus"])) == ("scan", 4)
    done = await commands.run("devices", "--scan")  # there is no NVIDIA driver for it to look at
    assert "as the running daemon sees it" not in done.out


async def test_the_socket_is_gone_after_a_stop(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await becomes(commands.socket.exists)
    assert await daemon.stop() == 0
    assert list(commands.socket.parent.iterdir()) == []


async def test_a_second_daemon_leaves_the_first_ones_socket_alone(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands, node_dir: Path
) -> None:
    first = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    second = await start_daemon(
        "1xa100-40gb", KUBELET_SOCKET=str(node_dir / "elsewhere" / "kubelet.sock")
    )
    await second.logged("commands cannot reach this daemon")
    assert "another daemon listens there" in second.log
    assert len((await commands.status())["gpus"]) == 2
    assert await second.stop() == 0
    assert len((await commands.status())["gpus"]) == 2
    assert first.process.returncode is None


async def test_a_daemon_without_a_control_socket_does_its_work(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    """Where it cannot be made, and where it is not wanted."""
    (node_dir / "file").touch()
    daemon = await start_daemon(NODE, CONTROL_SOCKET=str(node_dir / "file" / "control.sock"))
    await daemon.logged("commands cannot reach this daemon")
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    assert await daemon.stop() == 0
    quiet = await start_daemon(NODE, CONTROL_SOCKET="")
    await kubelet.wait_for(lambda: len(kubelet.registrations) == 2, SECONDS)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    assert await quiet.stop() == 0
    assert "commands" not in quiet.log


async def test_hostile_clients_disturb_nothing(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await becomes(lambda: listens(commands.socket))
    with contextlib.ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)  # noqa: FBT003 — the standard library's signature
            with contextlib.suppress(OSError):
                client.connect(str(commands.socket))
                client.send(
                    (b"", b"{", b"x" * 10_000, b'{"verb": "status", "arguments": []}\n')[number % 4]
                )
        await commands_of_kubelet_go_on(kubelet)
    await becomes(lambda: listens(commands.socket))
    assert (await commands.run("cordon", "0:0")).status == 0
    await kubelet.wait_allocatable(ONE_SLICE, 13, SECONDS)
    assert "Traceback" not in daemon.log
    assert len(kubelet.registrations) == 1


async def commands_of_kubelet_go_on(kubelet: SimKubelet) -> None:
    await held_by(kubelet, "unimpressed")
    await kubelet.delete(Pod("unimpressed"))


_OTHER_USER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
try:
    client.connect(sys.argv[1])
    client.sendall(b'{"verb": "cordon", "arguments": ["0"]}\\n')
    print(client.makefile().readline())
except PermissionError as error:
    print("not let in")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_other_users_are_kept_out(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await becomes(lambda: listens(commands.socket))

    def as_somebody_else() -> str:
        arguments = [sys.executable, "-I", "-c", _OTHER_USER, str(commands.socket)]
        return subprocess.run(arguments, capture_output=True, encoding="utf-8", check=True).stdout

    assert "not let in" in await asyncio.to_thread(as_somebody_else)
    # Even where the file's mode lets them in, the kernel tells who they are.
    commands.socket.parent.parent.chmod(0o755)
    commands.socket.parent.chmod(0o755)
    commands.socket.chmod(0o666)
    assert "only root and the daemon's own user" in await asyncio.to_thread(as_somebody_else)
    assert (await commands.status())["cordoned"] == []


async def test_a_socket_that_was_taken_away_comes_back(
    kubelet: SimKubelet, start_daemon: StartDaemon, commands: Commands
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 14, SECONDS)
    await becomes(commands.socket.exists)
    commands.socket.unlink()
    await becomes(lambda: listens(commands.socket))
    assert await daemon.stop(signal.SIGINT) == 0


@pytest.mark.timeout(120)
async def test_the_demo_says_that_every_number_is_right() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "plugin", "demo"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "✗" not in out.decode()
