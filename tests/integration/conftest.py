"""A stand-in kubelet and the real daemon as a process, with real sockets between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.sim.kubelet.kubelet import SimKubelet

from .waiting import SECONDS, becomes


@dataclass
class Daemon:
    """A running daemon. ``log`` is its standard error so far."""

    process: asyncio.subprocess.Process
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    async def logged(self, text: str) -> None:
        """Wait until `text` stands in the log."""
        await becomes(lambda: text in self.log or self.process.returncode is not None)
        assert text in self.log, f"the daemon ended:\n{self.log}"

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the daemon and wait for its end; returns its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()


StartDaemon = Callable[..., Awaitable[Daemon]]


@pytest.fixture
def node_dir() -> Iterator[Path]:
    """A folder with a short path: a unix socket's path has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="mdp-"))
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture
async def kubelet(node_dir: Path) -> AsyncIterator[SimKubelet]:
    async with SimKubelet(node_dir / "plugins", readmission_s=None, seed=1) as running:
        yield running
    assert [v for v in running.violations if v.kind != "allocate-response"] == []


@pytest_asyncio.fixture
async def start_daemon(node_dir: Path) -> AsyncIterator[StartDaemon]:
    """Start daemons with ``--simulate``, flags and environment; whatever was started is stopped at
    the end.
    """
    started: list[Daemon] = []

    async def start(simulate: str | None, *flags: str, **environment: str) -> Daemon:
        log_file = node_dir / f"daemon-{len(started)}.log"
        arguments = ["run", *flags]
        if simulate is not None:
            arguments.append(f"--simulate={simulate}")
        variables = {
            "MIG_STRATEGY": "mixed",
            "PASS_DEVICE_SPECS": "true",
            "LOG_FORMAT": "console",
            "KUBELET_SOCKET": str(node_dir / "plugins" / "kubelet.sock"),
            "CONTROL_SOCKET": str(node_dir / "control" / "control.sock"),
            "LEDGER_FILE": str(node_dir / "ledger.json"),
            "POD_RESOURCES_SOCKET": "",
            "HTTP_ADDRESS": "",
            **environment,
        }
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "plugin", *arguments),
                env={**os.environ, **variables},
                stderr=log,
            )
        started.append(Daemon(process, log_file))
        return started[-1]

    yield start
    for daemon in started:
        if daemon.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                daemon.process.kill()
            await daemon.process.wait()


@contextlib.asynccontextmanager
async def plugin_client(socket: Path) -> AsyncIterator[pb_grpc.DevicePluginAsyncStub]:
    """Another client of a plugin's socket, beside kubelet."""
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        yield pb_grpc.DevicePluginStub(channel)


def sockets(kubelet: SimKubelet) -> list[Path]:
    """The plugins' sockets in kubelet's directory."""
    return sorted(path for path in kubelet.directory.glob("nvidia.com-*.sock"))
