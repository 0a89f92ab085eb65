"""The daemon as a process, over a real ``libnvidia-ml.so.1`` and a real tree of driver files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from plugin.sim.kubelet.kubelet import SimKubelet
from tests.native import build

from .host import (
    DRIVER_NOT_LOADED,
    SMALL,
    Host,
    admit_all,
    command,
    daemon,
    expected_nodes,
    without_driver,
)

pytestmark = pytest.mark.skipif(
    build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
)


@pytest.mark.asyncio
async def test_56_devices_with_their_nodes(host: Host) -> None:
    async with SimKubelet(host.kubelet) as kubelet, daemon(host.environment) as running:
        await kubelet.wait_allocatable(SMALL, 56)
        assert kubelet.node_status() == {SMALL: (56, 56)}
        assert sorted(d.numa for d in kubelet.devices(SMALL).values()) == [(0,)] * 28 + [(1,)] * 28
        given = await admit_all(kubelet)
        assert {c.envs["NVIDIA_VISIBLE_DEVICES"] for c in given} == set(kubelet.devices(SMALL))
        for container in given:
            uuid = container.envs["CUDA_VISIBLE_DEVICES"]
            assert {node.container_path for node in container.devices} == expected_nodes(uuid)
            for node in container.devices:
                assert (node.host_path, node.permissions) == (
                    f"{host.root}{node.container_path}",
                    "rw",
                )
        assert not kubelet.violations
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert [path.name for path in host.kubelet.glob("*.sock")] == ["kubelet.sock"]


def _why_no_namespace(folder: Path) -> str | None:
    """Why a mount namespace of our own cannot be had, ``None`` when it can."""
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("mount") is None:
        return "needs root, unshare and mount"
    if not Path("/proc/driver").is_dir():
        return "this kernel has no /proc/driver to mount over"
    probe = subprocess.run(
        ["unshare", "-m", "mount", "--bind", folder, "/proc/driver"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"bind mounts are not allowed here: {probe.stderr.strip()}" if probe.returncode else None


#: Lays the node's files over the machine's own in a mount namespace, then becomes the command
#: behind it.
_OVERLAY = """
set -e
mount --make-rprivate /
for name in null zero random urandom; do
  touch "$1/dev/$name"
  mount --bind "/dev/$name" "$1/dev/$name"
done
mount --rbind "$1/dev" /dev
mount --bind "$1/proc/driver" /proc/driver
if [ -d /sys/bus/pci/devices ]; then
  mount --bind "$1/sys/bus/pci/devices" /sys/bus/pci/devices
fi
shift
exec "$@"
"""


@pytest.mark.asyncio
async def test_plain_command_on_a_bare_host(host: Host) -> None:
    """Two variables and the library's folder, nothing else: files are where a driver puts them."""
    reason = _why_no_namespace(host.root)
    if reason:
        pytest.skip(reason)
    environment = {
        name: host.environment[name]
        for name in ("PATH", "LD_LIBRARY_PATH", "MIG_STRATEGY", "KUBELET_SOCKET", "CONTROL_SOCKET")
    }
    overlay = ("unshare", "-m", "sh", "-c", _OVERLAY, "overlay", str(host.root), *command("run"))
    async with SimKubelet(host.kubelet) as kubelet, daemon(environment, *overlay):
        await kubelet.wait_allocatable(SMALL, 56)
        for container in await admit_all(kubelet):
            nodes = {node.host_path for node in container.devices}
            assert nodes == expected_nodes(container.envs["NVIDIA_VISIBLE_DEVICES"])
            assert nodes == {node.container_path for node in container.devices}


@pytest.mark.asyncio
@without_driver
async def test_missing_library_is_fatal_by_default(host: Host, tmp_path: Path) -> None:
    async with daemon(host.environment | {"LD_LIBRARY_PATH": str(tmp_path)}) as running:
        assert await running.ended() == 1
    (error,) = [line for line in running.lines if line["level"] == "error"]
    assert (
        "cannot load libnvidia-ml.so.1: it is not on the dynamic loader's path" in error["message"]
    )
    assert "install the NVIDIA driver" in error["message"]


@pytest.mark.asyncio
@without_driver
@pytest.mark.parametrize("folder_exists", [True, False])
async def test_library_that_comes_later(host: Host, tmp_path: Path, *, folder_exists: bool) -> None:
    late = tmp_path / "late"
    if folder_exists:
        late.mkdir()
    environment = host.environment | {"LD_LIBRARY_PATH": str(late), "FAIL_ON_INIT_ERROR": "false"}
    async with SimKubelet(host.kubelet) as kubelet, daemon(environment) as running:
        line = await running.logged("driver unavailable")
        assert "cannot load libnvidia-ml.so.1" in line["reason"]
        assert not kubelet.registrations
        late.mkdir(exist_ok=True)
        shutil.copy(host.library, late / ".new")
        (late / ".new").rename(late / build.LIBRARY)
        running.process.send_signal(
            signal.SIGHUP
        )  # the daemon looks again by itself, this saves the wait
        await kubelet.wait_allocatable(SMALL, 56)


@pytest.mark.asyncio
async def test_driver_not_loaded_is_fatal_by_default(host: Host) -> None:
    build.write_node(host.node, answers={"nvmlInitWithFlags": DRIVER_NOT_LOADED})
    async with daemon(host.environment) as running:
        assert await running.ended() == 1
    (error,) = [line for line in running.lines if line["level"] == "error"]
    assert "initialising NVML failed: Driver Not Loaded" in error["message"]
    assert "kernel module is not loaded" in error["message"]


@pytest.mark.asyncio
async def test_driver_that_is_loaded_later_is_noticed(host: Host) -> None:
    """The daemon retries by itself."""
    build.write_node(host.node, answers={"nvmlInitWithFlags": DRIVER_NOT_LOADED})
    async with (
        SimKubelet(host.kubelet) as kubelet,
        daemon(host.environment | {"FAIL_ON_INIT_ERROR": "false"}) as d,
    ):
        await d.logged("driver unavailable")
        assert not kubelet.registrations
        build.write_node(host.node)
        await kubelet.wait_allocatable(SMALL, 56, timeout=20)


@pytest.mark.asyncio
async def test_driver_that_goes_and_comes_back(host: Host) -> None:
    """Devices stay listed, unhealthy, and NVML is really initialised anew: a session that lost its
    driver is dead.
    """
    async with SimKubelet(host.kubelet) as kubelet, daemon(host.environment) as running:
        await kubelet.wait_allocatable(SMALL, 56)
        build.write_node(host.node, answers={"nvmlInitWithFlags": DRIVER_NOT_LOADED})
        running.process.send_signal(signal.SIGHUP)
        await kubelet.wait_allocatable(SMALL, 0)
        assert kubelet.capacity(SMALL) == 56
        build.write_node(host.node)
        running.process.send_signal(signal.SIGHUP)
        await kubelet.wait_allocatable(SMALL, 56)
