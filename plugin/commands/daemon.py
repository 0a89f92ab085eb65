"""The plugin as a process of its own, on a simulated node, talking to the stand-in kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugin.control.client import ask

#: How long it may take to end when asked to; it usually takes milliseconds.
STOP_SECONDS = 10.0


class Daemon:
    """Keeps everything in `folder`, where kubelet's folders are too."""

    def __init__(self, folder: Path, simulate: str, flags: Sequence[str] = ()) -> None:
        self.control_socket = str(folder / "control.sock")
        self.plugin_directory = folder / "device-plugins"
        self.log = folder / "daemon.log"
        self._arguments = (
            "run",
            f"--simulate={simulate}",
            "--log-format=console",
            f"--control-socket={self.control_socket}",
            f"--ledger-file={folder / 'ledger.json'}",
            f"--kubelet-socket={self.plugin_directory / 'kubelet.sock'}",
            *flags,
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "plugin", *self._arguments), stderr=log
            )

    async def ask(self, verb: str, *arguments: str) -> Any:
        # A signal ends a command, whatever its threads do.
        return await asyncio.to_thread(ask, self.control_socket, verb, *arguments)  # noqa: TID251

    async def ended(self) -> int:
        """Wait until it ends by itself; its exit status."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
