"""A simulated node on a machine that is none: no kubelet, no root, no paths given."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.unprivileged import AS_NOBODY, MISSING

from .waiting import SECONDS, becomes

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture
def home(node_dir: Path) -> Path:
    """The home of whoever :data:`AS_NOBODY` is."""
    made = node_dir / "home"
    made.mkdir()
    if os.geteuid() == 0:
        node_dir.chmod(0o755)
        os.chown(made, 65534, 65534)
    return made


async def test_one_calm_line_a_page_and_commands_without_root(node_dir: Path, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "KUBELET_SOCKET": "/var/lib/kubelet-of-no-machine/device-plugins/kubelet.sock",
        "POD_RESOURCES_SOCKET": "/var/lib/kubelet-of-no-machine/pod-resources/kubelet.sock",
    }
    program = (*AS_NOBODY, sys.executable, "-W", "error", "-m", "plugin")
    log_file = node_dir / "log"
    with log_file.open("wb") as log:
        daemon = await asyncio.create_subprocess_exec(
            *program,
            "run",
            "--simulate=p4d.24xlarge:all-balanced",
            "--mig-strategy=mixed",
            f"--http-address=127.0.0.1:{port}",
            env=environment,
            stderr=log,
        )
    try:
        await becomes(lambda: '"serving HTTP"' in log_file.read_text() or _ended(daemon))
        page = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/")
        assert "8 GPUs, 32 MIG devices" in page
        command = await asyncio.create_subprocess_exec(
            *(*program, "cordon", "0:0"), env=environment, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await command.communicate()
        assert command.returncode == 0
        assert said.endswith(b"is cordoned\n")
        assert (home / ".local/state/mig-device-plugin/control.sock").is_socket()
    finally:
        if not _ended(daemon):
            daemon.terminate()
        async with asyncio.timeout(SECONDS):
            status = await daemon.wait()
    assert status == 0
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    calm = [line for line in lines if line["message"] != "unhealthy"]  # the cordon
    assert [line for line in calm if line["level"] != "info"] == []
    about = [line for line in lines if "kubelet" in line["message"]]
    assert [line["message"] for line in about] == [
        "no kubelet here, devices are registered once its socket exists"
    ]
    assert about[0]["socket"] == environment["KUBELET_SOCKET"]
    assert not (home / ".local/state/mig-device-plugin/control.sock").exists()


def _ended(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is not None


def _get(url: str) -> str:
    with urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 — our own address
        text: str = answer.read().decode()
        return text
