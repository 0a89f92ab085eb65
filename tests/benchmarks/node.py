"""The node that is measured: a stand-in kubelet in this process, the daemon in its own, a socket
between them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from plugin.sim.kubelet.kubelet import SOCKET, SimKubelet

NODE = "p4d.24xlarge:all-1g.5gb"
RESOURCE = "nvidia.com/mig-1g.5gb"
DEVICES = 56

_EXIT_SECONDS = 10.0
_NOT_INHERITED = frozenset({"GRPC_VERBOSITY", "PYTHONDONTWRITEBYTECODE"})


@dataclass(frozen=True, slots=True)
class Daemon:
    """One running daemon. ``started`` is when its process was asked for, in seconds of the
    monotonic clock.
    """

    process: asyncio.subprocess.Process
    started: float
    log: Path

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far, in nanosecond steps where ``/proc`` has
        10 ms ticks.
        """
        return time.clock_gettime(
            (~self.process.pid << 3) | 2
        )  # what clock_getcpuclockid(3) makes of a process id

    def memory_mib(self, key: str) -> float:
        """A line of ``/proc/PID/status``, such as ``VmRSS``, in MiB."""
        for line in (
            Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        ):
            name, _, value = line.partition(":")
            if name == key:
                return int(value.removesuffix("kB")) / 1024
        raise LookupError(f"/proc/{self.process.pid}/status has no {key}")

    async def stop(self) -> float:
        """SIGTERM, then wait; returns the milliseconds until the process was gone."""
        before = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_EXIT_SECONDS):
            status = await self.process.wait()
        if status != 0:
            raise RuntimeError(
                f"the daemon exited with {status}:\n{self.log.read_text(encoding='utf-8')}"
            )
        return (time.monotonic() - before) * 1000


class Node:
    """A kubelet and at most one daemon, in a folder of their own."""

    def __init__(self, kubelet: SimKubelet) -> None:
        self.kubelet = kubelet

    @property
    def directory(self) -> Path:
        return self.kubelet.directory

    @asynccontextmanager
    async def daemon(self, *options: str) -> AsyncIterator[Daemon]:
        """Start a daemon and have it end with the block, by force where it is still there."""
        log = self.directory / "daemon.log"
        program = Path(sys.executable).with_name("mig-device-plugin")
        # No address or socket that two daemons of one machine could both want; later options win.
        apart = ("--http-address=", "--control-socket=", "--pod-resources-socket=")
        kubelet = f"--kubelet-socket={self.directory / SOCKET}"
        # The daemon runs as it would from an image: with its byte code, which the first start
        # leaves behind, and without what keeps gRPC quiet in this process.
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        with log.open("wb") as output:
            started = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                program, "run", f"--simulate={NODE}", "--pass-device-specs", kubelet,
                *apart, *options,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            )  # fmt: skip
        try:
            yield Daemon(process, started, log)
        except Exception as error:
            last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            raise RuntimeError(f"{error}\nthe end of the daemon's log:\n{last}") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def listed(self, count: int = DEVICES, *, after: int = 0) -> float:
        """When the first list of `count` healthy devices came in, not looking at the `after` oldest
        messages.
        """
        kubelet = self.kubelet
        found: list[float] = []

        def complete() -> bool:
            found.extend(
                message.time
                for message in kubelet.messages[after:]
                if sum(device.healthy for device in message.devices) == count
            )
            return bool(found)

        await kubelet.wait_for(complete)
        return found[0]

    async def registered(self, *, after: int) -> float:
        """When the first registration behind the `after` oldest ones was asked for."""
        kubelet = self.kubelet
        await kubelet.wait_for(lambda: len(kubelet.registrations) > after)
        return kubelet.registrations[after].time

    async def streaming(self) -> None:
        """Wait until exactly one ListAndWatch is open."""
        kubelet = self.kubelet
        await kubelet.wait_for(lambda: kubelet.live_streams(RESOURCE) == 1)

    def socket(self) -> Path:
        """The socket that the newest registration names."""
        return self.directory / self.kubelet.registrations[-1].endpoint


@asynccontextmanager
async def new_node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with SimKubelet(Path(folder), readmission_s=None) as kubelet:
            yield Node(kubelet)


class Shared:
    """The one node and daemon that most measurements take place on,
    started by the first that asks.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._running: tuple[Node, Daemon] | None = None

    async def get(self) -> tuple[Node, Daemon]:
        """Node and daemon with everything listed and registered."""
        if self._running is None:
            node = await self._stack.enter_async_context(new_node())
            daemon = await self._stack.enter_async_context(node.daemon())
            await node.listed()
            self._running = node, daemon
        return self._running
