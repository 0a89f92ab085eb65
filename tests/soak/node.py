"""The node under churn: a stand-in kubelet in this process, the daemon and its rivals in theirs."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import Process
from http import HTTPStatus
from pathlib import Path
from typing import Any

from plugin.control.client import ask
from plugin.errors import ControlError, NotRunning
from plugin.sim.kubelet.kubelet import SOCKET, SimKubelet

NODE = "p4d.24xlarge:all-1g.5gb"
GPUS = 8
#: Sockets of killed processes are looked for every two seconds, and need a second to be certain.
NOTICED_SECONDS = 4.0


class Node:
    """One daemon and its kubelet in `folder`; ``port`` is where the daemon serves HTTP."""

    def __init__(self, folder: Path, kubelet: SimKubelet, port: int) -> None:
        self.folder = folder
        self.kubelet = kubelet
        self._port = port
        self.log = folder / "daemon.log"
        self.control = str(folder / "control.sock")
        self.pod_resources = folder / "pod-resources" / SOCKET

    async def start(self) -> Process:
        """The daemon, with everything on."""
        return await self._spawn(
            self.log,
            f"--control-socket={self.control}",
            f"--http-address=127.0.0.1:{self._port}",
            f"--pod-resources-socket={self.pod_resources}",
            f"--ledger-file={self.folder / 'ledger.json'}",
            "--sample-interval=2",
            "--quiet-period=0.5",
            "--dcgm-names",
        )

    async def start_rival(self) -> Process:
        """A second daemon for the same resources, as a second release would run it."""
        return await self._spawn(
            self.folder / "rival.log",
            "--control-socket=",
            "--http-address=",
            "--pod-resources-socket=",
            f"--ledger-file={self.folder / 'rival.json'}",
        )

    async def _spawn(self, log: Path, *options: str) -> Process:
        program = Path(sys.executable).with_name("mig-device-plugin")
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                program,
                "run",
                f"--simulate={NODE}",
                "--mig-strategy=mixed",
                f"--kubelet-socket={self.kubelet.directory / SOCKET}",
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def ask(self, verb: str, *arguments: str) -> Any:
        """A command to the daemon; ``None`` when it was refused, which random ones may be."""
        try:
            return await asyncio.to_thread(ask, self.control, verb, *arguments)
        except NotRunning:
            raise
        except ControlError:
            return None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self._port}{path}")

    async def ready(self, seconds: float) -> None:
        """Wait until kubelet has everything. A rival that went a moment ago is noticed first, after
        which the daemon registers again.
        """
        await asyncio.sleep(NOTICED_SECONDS)
        async with asyncio.timeout(seconds):
            while (await self.get("/readyz"))[0] != HTTPStatus.OK:  # noqa: ASYNC110 — HTTP only answers
                await asyncio.sleep(0.5)

    async def state(self) -> Any:
        _, body = await self.get("/api/v1/state")
        return json.loads(body)


def _get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 — our own address
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
