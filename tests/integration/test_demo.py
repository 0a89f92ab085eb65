"""``demo`` as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from .waiting import SECONDS


def left(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.asyncio
async def test_nothing_is_left_when_the_demo_is_ended(node_dir: Path, number: int) -> None:
    """Also when the terminal is closed, which the daemon takes for an order to read its files."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plugin", "demo"),
        env={**os.environ, "TMPDIR": str(node_dir)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    async with asyncio.timeout(3 * SECONDS):
        while b"allocatable" not in await process.stdout.readline():
            pass
    os.killpg(process.pid, number)
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert (process.returncode, err) == (130 if number == signal.SIGINT else 1, b"")
    assert left(node_dir) == []
    with pytest.raises(ProcessLookupError):  # nothing of its group
        os.killpg(process.pid, 0)
