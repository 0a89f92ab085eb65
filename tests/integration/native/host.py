"""A node whose processes use a real ``libnvidia-ml.so.1`` and a real tree of driver files."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugin.sim import tree
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import ContainerResult, Pod
from tests.native import build

SMALL = "nvidia.com/mig-1g.5gb"
CONTROL_NODES = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"}
DRIVER_NOT_LOADED, NO_PERMISSION = 9, 4


def _loader_finds_a_driver() -> bool:
    try:
        ctypes.CDLL(build.LIBRARY)
    except OSError:
        return False
    return True


without_driver = pytest.mark.skipif(
    _loader_finds_a_driver(), reason="this machine has a driver of its own"
)


@dataclass(frozen=True, slots=True)
class Host:
    """A node of 8 A100-40GB: files below ``root``, what the library says in ``node``."""

    root: Path
    node: Path
    library: Path
    kubelet: Path

    @property
    def environment(self) -> dict[str, str]:
        """Everything that a process needs to know of this node."""
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(self.library.parent),
            build.NODE_VARIABLE: str(self.node),
            "MIG_STRATEGY": "mixed",
            "CONTROL_SOCKET": "",
            "KUBELET_SOCKET": str(self.kubelet / "kubelet.sock"),
            "PROC_ROOT": str(self.root / "proc"),
            "SYS_ROOT": str(self.root / "sys"),
            "NVIDIA_DEV_ROOT": str(self.root),
        }

    def become(self, geometry: str) -> None:
        """Give the node another geometry, in its files and in what the library says."""
        engine = parse_node(f"p4d.24xlarge:{geometry}")
        tree.write(engine, self.root)
        build.write_node(self.node, engine)

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def devices(self, *arguments: str, **variables: str) -> Any:
        done = self.call("devices", "--output", "json", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "plugin", *arguments]


class Daemon:
    """The daemon's process and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read())
        self._changed = asyncio.Event()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))
            self._changed.set()
        self._changed.set()

    async def logged(self, message: str) -> dict[str, Any]:
        """Wait for a line with this message that nobody has waited for yet."""
        async with asyncio.timeout(20):
            while True:
                for line in self.lines:
                    if line["message"] == message and "seen" not in line:
                        line["seen"] = True
                        return line
                self._changed.clear()
                await self._changed.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            await self._reader
            return await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await self.ended()
        except TimeoutError:
            self.process.kill()
            await self.ended()
            raise


@asynccontextmanager
async def daemon(environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Daemon]:
    process = await asyncio.create_subprocess_exec(
        *(arguments or command("run")), env=environment, stderr=asyncio.subprocess.PIPE
    )
    running = Daemon(process)
    try:
        yield running
    except Exception as error:
        error.add_note("\n".join(map(str, running.lines[-20:])))
        raise
    finally:
        await running.stop()


def expected_nodes(uuid: str) -> set[str]:
    """Nodes of a default device; the library writes GPU and MIG index into its UUID."""
    gpu, index = int(uuid[-12:-4], 16), int(uuid[-4:], 16)
    gi = 3 + 135 * gpu + 9 * (7 + index)
    caps = {f"/dev/nvidia-caps/nvidia-cap{number}" for number in (gi, gi + 1)}
    return CONTROL_NODES | caps | {f"/dev/nvidia{gpu}"}


async def admit_all(kubelet: SimKubelet) -> list[ContainerResult]:
    """56 pods of one device."""
    results = [
        await kubelet.admit(Pod(f"p{number}", containers={"main": {SMALL: 1}}))
        for number in range(56)
    ]
    assert {result.phase for result in results} == {"Running"}
    return [result.containers["main"] for result in results]
