"""Commands beside a running daemon use its settings, however it came by them; and the name of its
node is where people look for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from plugin.sim.kubelet.kubelet import SimKubelet

from .conftest import Daemon, StartDaemon
from .waiting import SECONDS

NODE = "p4d.24xlarge:all-1g.5gb"
ONE = "nvidia.com/mig-1g.5gb"

pytestmark = pytest.mark.asyncio


async def run(node_dir: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """A command as somebody runs it in the daemon's container, who knows of no argument."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "plugin", *arguments),
        env={
            **os.environ,
            "CONTROL_SOCKET": str(node_dir / "control" / "control.sock"),
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, " ".join(out.decode().split())


async def test_doctor_checks_the_node_that_the_daemon_has(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    config = node_dir / "config.yaml"
    config.write_text("flags: {migStrategy: single}")
    daemon = await start_daemon(
        NODE,
        "--single-resource=gpu",
        f"--config-file={config}",
        MIG_STRATEGY="",
        PASS_DEVICE_SPECS="",
    )
    await kubelet.wait_allocatable("nvidia.com/gpu", 56, SECONDS)
    status, told = await run(node_dir, "doctor")
    assert "56 × nvidia.com/gpu" in told
    assert f"pass kubelet: {node_dir}/plugins/kubelet.sock" in told
    assert "PASS_DEVICE_SPECS" not in told
    assert status == 0

    config.write_text("flags: {migStrategy: mixed}")
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("configuration read again")
    assert f"56 × {ONE}" in (await run(node_dir, "doctor"))[1]
    # What this command is given itself wins, and another node is another node.
    _, told = await run(node_dir, "doctor", "--mig-strategy=none")
    assert "MIG devices are not advertised" in told or "advertised whole" in told
    assert "4 × nvidia.com/gpu" in (await run(node_dir, "doctor", "--simulate=g4dn.12xlarge"))[1]

    config.write_text("flags: {migStrategy: both}")
    await daemon.logged("configuration not taken")
    status, told = await run(node_dir, "doctor")
    assert "fail configuration: refused: " in told
    assert "'both' is not valid" in told
    assert status == 2


@pytest.mark.parametrize("environment", [{}, {"SIMULATE": NODE}])
async def test_devices_shows_the_daemon_s_node(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path, environment: dict[str, str]
) -> None:
    """In a chart's simulation the node is in the environment too."""
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE, 56, SECONDS)
    assert (await run(node_dir, "cordon", "0:0"))[0] == 0
    _, told = await run(node_dir, "devices", **environment)
    assert "as the running daemon sees it" in told
    assert f"{ONE}: 55 (1 unhealthy)" in told
    _, told = await run(node_dir, "devices", "--simulate=1xa100-40gb:all-balanced", **environment)
    assert "as the running daemon sees it" not in told


async def http_port(daemon: Daemon) -> int:
    await daemon.logged("serving HTTP")
    found = re.search(r"serving HTTP .*port=(\d+)", daemon.log)
    assert found is not None, daemon.log
    return int(found[1])


async def fetch(port: int, path: str, **headers: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)

    def read() -> str:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            content: bytes = answer.read()
        return content.decode()

    return await asyncio.to_thread(read)


async def test_the_node_s_name_is_where_people_look_for_it(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(
        NODE, "--dcgm-names", NODE_NAME="worker-7.example", HTTP_ADDRESS="127.0.0.1:0"
    )
    await kubelet.wait_allocatable(ONE, 56, SECONDS)
    port = await http_port(daemon)
    state: dict[str, Any] = json.loads(await fetch(port, "/api/v1/state", Host="worker-7.example"))
    assert state["hostname"] == "worker-7.example"
    assert re.search(r"<title>[^<]*worker-7\.example", await fetch(port, "/"))
    metrics = await fetch(port, "/metrics")
    assert 'Hostname="worker-7.example"' in metrics


async def test_a_token_guards_what_is_no_probe(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    (node_dir / "token").write_text("t0ken\n")
    daemon = await start_daemon(
        NODE, f"--http-token-file={node_dir / 'token'}", HTTP_ADDRESS="127.0.0.1:0"
    )
    await kubelet.wait_allocatable(ONE, 56, SECONDS)
    port = await http_port(daemon)
    assert "ok" in await fetch(port, "/healthz")
    assert "mig_device_plugin" in await fetch(port, "/metrics", Authorization="Bearer t0ken")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        await fetch(port, "/metrics")
