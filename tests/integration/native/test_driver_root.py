"""A driver below a root of its own, as containers and operators install it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from plugin.sim.kubelet.kubelet import SimKubelet
from tests.native import build

from .host import SMALL, Host, admit_all, daemon

pytestmark = pytest.mark.skipif(
    build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
)


# A driver below a root of its own

PLAIN = {"usr/lib64/libnvidia-ml.so.1": None}
VERSIONED = {
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.0.1": None,
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "libnvidia-ml.so.580.0.1",
}
ABSOLUTE = {
    "opt/driver/libnvidia-ml.so.580.0.1": None,
    "usr/lib64/libnvidia-ml.so.1": "/opt/driver/libnvidia-ml.so.580.0.1",
}
#: As Debian packages the driver.
ALTERNATIVES = {
    "usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.580.0.1": None,
    "usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.1": "libnvidia-ml.so.580.0.1",
    "etc/alternatives/nvidia--libnvidia-ml.so.1": (
        "/usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.1"
    ),
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "/etc/alternatives/nvidia--libnvidia-ml.so.1",
}
#: A link in the middle of the path.
FOLDER = {"store/5f2c-driver/libnvidia-ml.so.1": None, "usr/lib64": "/store/5f2c-driver"}


@pytest.mark.parametrize(
    "files",
    [PLAIN, VERSIONED, ABSOLUTE, ALTERNATIVES, FOLDER],
    ids=["plain", "versioned", "absolute", "alternatives", "folder"],
)
def test_driver_root(host: Host, tmp_path: Path, files: Mapping[str, str | None]) -> None:
    root = tmp_path / "root"
    for name, target in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target is None:
            shutil.copy(host.library, path)
        else:
            path.symlink_to(target)
    host.root.joinpath("dev").rename(root / "dev")
    nowhere = {"LD_LIBRARY_PATH": "", "NVIDIA_DEV_ROOT": ""}
    shown = host.devices("--driver-root-ctr-path", str(root), **nowhere)
    assert shown["resources"] == {SMALL: {"devices": 56, "healthy": 56}}
    done = host.call("doctor", "--driver-root-ctr-path", str(root), **nowhere)
    (line,) = [line for line in done.stdout.splitlines() if "library:" in line]
    assert line.startswith("pass")
    (real,) = [name for name, target in files.items() if target is None]
    assert line.endswith(str(root / real))


@pytest.mark.asyncio
async def test_daemon_with_a_driver_root(host: Host, tmp_path: Path) -> None:
    """The host's root is named to containers, the mounted one is where we look."""
    mounted = tmp_path / "mounted"
    (mounted / "usr/lib64").mkdir(parents=True)
    shutil.copy(host.library, mounted / "usr/lib64")
    host.root.joinpath("dev").rename(mounted / "dev")
    environment = host.environment | {
        "LD_LIBRARY_PATH": "",
        "NVIDIA_DEV_ROOT": "",
        "NVIDIA_DRIVER_ROOT": "/run/nvidia/driver",
        "DRIVER_ROOT_CTR_PATH": str(mounted),
    }
    async with SimKubelet(host.kubelet) as kubelet, daemon(environment):
        await kubelet.wait_allocatable(SMALL, 56)
        (container, *_) = await admit_all(kubelet)
        for node in container.devices:
            assert node.host_path == f"/run/nvidia/driver{node.container_path}"
