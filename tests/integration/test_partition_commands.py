"""``partition`` beside a daemon that simulates: it looks at the daemon's node as it is now."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import yaml

from plugin.control.client import ask

from .conftest import StartDaemon
from .waiting import SECONDS, becomes

pytestmark = pytest.mark.asyncio


async def run(node_dir: Path, *arguments: str) -> str:
    environment = {**os.environ, "CONTROL_SOCKET": str(node_dir / "control" / "control.sock")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "plugin", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_the_node_of_a_daemon_as_it_is_now(node_dir: Path, start_daemon: StartDaemon) -> None:
    await start_daemon("2xa100-40gb:all-1g.5gb", KUBELET_SOCKET="")
    socket = str(node_dir / "control" / "control.sock")
    await becomes(Path(socket).exists)
    await asyncio.to_thread(ask, socket, "sim", "repartition", "1=3g.20gb*2")
    exported = yaml.safe_load(await run(node_dir, "partition", "export"))
    assert exported["mig-configs"]["current"] == [
        {"devices": [0], "mig-enabled": True, "mig-devices": {"1g.5gb": 7}},
        {"devices": [1], "mig-enabled": True, "mig-devices": {"3g.20gb": 2}},
    ]
    # A node that is named on the command line is another one.
    other = await run(node_dir, "partition", "export", "--simulate", "1xa30-24gb")
    assert yaml.safe_load(other)["mig-configs"]["current"] == [
        {"devices": "all", "mig-enabled": False, "mig-devices": {}}
    ]
