"""``make playground`` as somebody without root uses it: start, look at the page, paste what is
printed, end.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.unprivileged import AS_NOBODY, MISSING
from tests.web.browser import CHROMIUM, Page, browser

from .waiting import SECONDS, becomes, eventually

ROOT = Path(__file__).resolve().parents[2]
#: Start, a browser, a drain of a GPU on which pods live for up to half a minute.
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@dataclass
class Playground:
    """A running one. ``printed`` is what it has printed so far."""

    process: asyncio.subprocess.Process
    environment: dict[str, str]
    printed: str = ""

    async def prints(self, wanted: str) -> None:
        """Read on until it has printed this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(3 * SECONDS):
            while wanted not in self.printed:
                line = await self.process.stdout.readline()
                assert line, self.printed
                self.printed += line.decode()

    def address(self, label: str) -> str:
        (found,) = re.findall(rf"^{label} +(\S+)$", self.printed, re.MULTILINE)
        return str(found)

    @property
    def folder(self) -> Path:
        return Path(self.address("log")).parent

    def commands(self) -> dict[str, str]:
        """Meaning → command, as printed."""
        return dict(re.findall(r"^  # (.+)\n  (.+)$", self.printed, re.MULTILINE))

    async def paste(self, command: str) -> str:
        """What it prints, run by a shell in another folder."""
        process = await asyncio.create_subprocess_exec(
            *(*AS_NOBODY, "sh", "-c", command),
            env=self.environment,
            cwd="/",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, said
        return said

    async def has_both_large_slices(self) -> bool:
        """As the Node says."""
        with await asyncio.to_thread(urllib.request.urlopen, self.address("cluster")) as answer:
            node = json.load(answer)
        return bool(node["status"]["capacity"]["nvidia.com/mig-3g.20gb"] == "2")

    def processes(self) -> list[str]:
        """Command lines of all that work in its folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it ended
                continue
            if str(self.folder) in line:
                found.append(line)
        return found

    async def interrupt(self) -> str:
        """Ctrl-C, which a terminal sends to everything in the foreground; the last words."""
        os.killpg(self.process.pid, signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            said, _ = await self.process.communicate()
        return said.decode()


@pytest_asyncio.fixture
async def playground() -> AsyncIterator[Playground]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    # The environment is there already: make must not look whether it is newer than pyproject.toml.
    make = (
        *("make", "--silent", f"--directory={ROOT}", f"VENV={sys.prefix}"),
        *(f"--old-file={sys.prefix}/.product", "playground"),
        *("NODE=2xa100-40gb:all-balanced", f"PORT={port}"),
    )
    process = await asyncio.create_subprocess_exec(
        *(*AS_NOBODY, *make),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    running = Playground(process, environment)
    await running.prints("Ctrl-C ends it.")
    yield running
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_what_is_printed_can_be_pasted_and_nothing_is_left(playground: Playground) -> None:
    assert len(playground.processes()) == 1  # the daemon
    assert playground.folder.stat().st_mode & 0o077 == 0
    commands = playground.commands()
    said = {meaning: await playground.paste(command) for meaning, command in commands.items()}
    assert "8 healthy" not in said["list the devices"]
    assert "A100-SXM4-40GB" in said["list the devices"]
    assert said["break one slice"].startswith("XID 109 of MIG device 0:0")
    assert "drained: no pod holds it" in said["empty a GPU, and let pods in again"]
    assert "\nnvidia.com/mig.config=all-1g.5gb\n" in said["the Node's labels, with the answer"]
    back = said["and back, with eviction of the pods in the way"]
    assert back.splitlines()[-1] == "all-balanced is applied"
    # How many of them depends on what was mended meanwhile.
    await playground.prints("nvidia.com/mig-1g.5gb: ")
    await eventually(playground.has_both_large_slices, "the Node's capacity")
    assert "Traceback" not in playground.printed
    assert "ended; nothing is left" in await playground.interrupt()
    assert not playground.folder.exists()
    await becomes(lambda: playground.processes() == [])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
async def test_a_broken_slice_is_seen_on_the_page(playground: Playground) -> None:
    async with browser() as chromium:
        page = await chromium.page(playground.address("page"))
        await shows(page, "2 GPUs, 8 MIG devices")
        await shows(page, "allocated")
        assert "XID 109" not in await text(page)
        await playground.paste(playground.commands()["break one slice"])
        await shows(page, "XID 109")
        await playground.paste(playground.commands()["clear its fault"])
        assert chromium.complaints == []
    await playground.interrupt()
    assert not playground.folder.exists()


async def text(page: Page) -> str:
    return str(await page.evaluate("document.body.innerText"))


async def shows(page: Page, wanted: str) -> None:
    """Wait until the page, which keeps itself up to date, shows it."""

    async def shown() -> bool:
        return wanted in await text(page)

    await eventually(shown, wanted)
