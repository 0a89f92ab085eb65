"""The daemon and its commands as processes, over a real ``libnvidia-ml.so.1`` and a real tree of
driver files.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.sim import tree
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import ContainerResult, Pod
from tests.native import build
from tests.simulated import scan

SMALL = "nvidia.com/mig-1g.5gb"
CONTROL_NODES = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"}
DRIVER_NOT_LOADED, NO_PERMISSION = 9, 4

pytestmark = pytest.mark.skipif(
    build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
)


def _loader_finds_a_driver() -> bool:
    try:
        ctypes.CDLL(build.LIBRARY)
    except OSError:
        return False
    return True


without_driver = pytest.mark.skipif(
    _loader_finds_a_driver(), reason="this machine has a driver of its own"
)


@dataclass(frozen=True, slots=True)
class Host:
    """A node of 8 A100-40GB: files below ``root``, what the library says in ``node``."""

    root: Path
    node: Path
    library: Path
    kubelet: Path

    @property
    def environment(self) -> dict[str, str]:
        """Everything that a process needs to know of this node."""
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(self.library.parent),
            build.NODE_VARIABLE: str(self.node),
            "MIG_STRATEGY": "mixed",
            "CONTROL_SOCKET": "",
            "KUBELET_SOCKET": str(self.kubelet / "kubelet.sock"),
            "PROC_ROOT": str(self.root / "proc"),
            "SYS_ROOT": str(self.root / "sys"),
            "NVIDIA_DEV_ROOT": str(self.root),
        }

    def become(self, geometry: str) -> None:
        """Give the node another geometry, in its files and in what the library says."""
        engine = parse_node(f"p4d.24xlarge:{geometry}")
        tree.write(engine, self.root)
        build.write_node(self.node, engine)

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _command(*arguments),
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def devices(self, *arguments: str, **variables: str) -> Any:
        done = self.call("devices", "--output", "json", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("old-nvml"), old_driver=True)


@pytest.fixture
def host(tmp_path: Path, library: Path) -> Host:
    """The node that the library has by default, so that nothing of ours tells it what to answer."""
    tree.write(parse_node("p4d.24xlarge:all-1g.5gb"), tmp_path / "host")
    return Host(tmp_path / "host", tmp_path / "node.txt", library, tmp_path / "dp")


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "plugin", *arguments]


class Daemon:
    """The daemon's process and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read())
        self._changed = asyncio.Event()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))
            self._changed.set()
        self._changed.set()

    async def logged(self, message: str) -> dict[str, Any]:
        """Wait for a line with this message that nobody has waited for yet."""
        async with asyncio.timeout(20):
            while True:
                for line in self.lines:
                    if line["message"] == message and "seen" not in line:
                        line["seen"] = True
                        return line
                self._changed.clear()
                await self._changed.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            await self._reader
            return await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await self.ended()
        except TimeoutError:
            self.process.kill()
            await self.ended()
            raise


@asynccontextmanager
async def daemon(environment: Mapping[str, str], *command: str) -> AsyncIterator[Daemon]:
    process = await asyncio.create_subprocess_exec(
        *(command or _command("run")), env=environment, stderr=asyncio.subprocess.PIPE
    )
    running = Daemon(process)
    try:
        yield running
    except Exception as error:
        error.add_note("\n".join(map(str, running.lines[-20:])))
        raise
    finally:
        await running.stop()


def expected_nodes(uuid: str) -> set[str]:
    """Nodes of a default device; the library writes GPU and MIG index into its UUID."""
    gpu, index = int(uuid[-12:-4], 16), int(uuid[-4:], 16)
    gi = 3 + 135 * gpu + 9 * (7 + index)
    caps = {f"/dev/nvidia-caps/nvidia-cap{number}" for number in (gi, gi + 1)}
    return CONTROL_NODES | caps | {f"/dev/nvidia{gpu}"}


async def admit_all(kubelet: SimKubelet) -> list[ContainerResult]:
    """56 pods of one device."""
    results = [
        await kubelet.admit(Pod(f"p{number}", containers={"main": {SMALL: 1}}))
        for number in range(56)
    ]
    assert {result.phase for result in results} == {"Running"}
    return [result.containers["main"] for result in results]


# The daemon


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
    overlay = ("unshare", "-m", "sh", "-c", _OVERLAY, "overlay", str(host.root), *_command("run"))
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
    assert "cannot load libnvidia-ml.so.1 on the loader's path" in error["message"]
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
    """Without being told: the daemon tries again by itself."""
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


# Commands


def test_devices(host: Host) -> None:
    shown = host.devices()
    assert shown["resources"] == {SMALL: {"devices": 56, "healthy": 56}}
    assert shown["driver"] == {"version": "580.0.1", "nvml": "13.580.0.1", "cuda": "13.0"}
    assert shown["problems"] == []
    assert [gpu["pciBusId"] for gpu in shown["gpus"]][:3] == [
        "0000:10:1c.0",
        "0000:10:1d.0",
        "0000:20:1c.0",
    ]
    gpu = shown["gpus"][5]
    assert (gpu["product"], gpu["memoryMiB"], gpu["minor"], gpu["numa"]) == (
        "NVIDIA A100-SXM4-40GB",
        40960,
        5,
        1,
    )
    assert [(d["gi"], d["ci"], d["profile"]) for d in gpu["migDevices"]] == [
        (n, 0, "1g.5gb") for n in range(7, 14)
    ]
    device = gpu["migDevices"][2]
    assert device["placement"] == {"start": 2, "size": 1}
    assert (device["memoryMiB"], device["multiprocessors"], device["missingNodes"]) == (
        4864,
        14,
        [],
    )
    assert CONTROL_NODES | set(device["nodes"]) == expected_nodes(device["uuid"])


def test_a_missing_capability_node_is_named(host: Host) -> None:
    cap = "/dev/nvidia-caps/nvidia-cap67"  # of GPU 0, GI 7, CI 0
    (host.root / cap.lstrip("/")).unlink()
    shown = host.devices()
    device = shown["gpus"][0]["migDevices"][0]
    assert device["missingNodes"] == [cap]
    assert device["health"] != "healthy"
    assert any(cap in reason["text"] for reason in device["reasons"])
    assert shown["resources"][SMALL]["healthy"] == 55
    done = host.call("doctor")
    assert done.returncode == 2
    assert any(line.startswith("fail") and cap in line for line in done.stdout.splitlines())


MIXTURE = "0=1g.5gb+me,2g.10gb,1g.10gb;1=1c.3g.20gb*3,4g.20gb;2=7g.40gb;3=on;4-7=off"
EMPTY = "GPU 3: MIG mode on and no MIG devices"


def names(shown: Any) -> dict[str, int]:
    return {
        name.removeprefix("nvidia.com/"): entry["devices"]
        for name, entry in shown["resources"].items()
    }


def test_names_are_the_drivers(host: Host) -> None:
    host.become(MIXTURE)
    shown = host.devices()
    assert names(shown) == {
        "gpu": 4,
        "mig-1g.5gb.me": 1,
        "mig-1g.10gb": 1,
        "mig-2g.10gb": 1,
        "mig-1c.3g.20gb": 3,
        "mig-4g.20gb": 1,
        "mig-7g.40gb": 1,
    }
    assert shown["problems"] == [EMPTY]


@pytest.mark.parametrize("refused", ["nvmlDeviceGetGpuInstanceById", "nvmlGpuInstanceGetInfo"])
def test_names_by_arithmetic_without_permission(host: Host, refused: str) -> None:
    """What a container without the right to monitor all instances is told."""
    host.become(MIXTURE)
    text = host.node.read_text(encoding="ascii")
    host.node.write_text(f"answer {refused} {NO_PERMISSION}\n{text}", encoding="ascii")
    _assert_named_by_arithmetic(host.devices())


def test_names_by_arithmetic_with_an_old_driver(host: Host, old_library: Path) -> None:
    host.become(MIXTURE)
    _assert_named_by_arithmetic(host.devices(LD_LIBRARY_PATH=str(old_library.parent)))


def _assert_named_by_arithmetic(shown: Any) -> None:
    devices = [device for gpu in shown["gpus"] for device in gpu["migDevices"]]
    assert len(devices) == 8
    assert all(device["placement"] is None for device in devices)
    # Attributes cannot be computed: 1g.5gb+me is told apart from 1g.5gb by the driver's name alone.
    assert names(shown) == {
        "gpu": 4,
        "mig-1g.5gb": 1,
        "mig-1g.10gb": 1,
        "mig-2g.10gb": 1,
        "mig-1c.3g.20gb": 3,
        "mig-4g.20gb": 1,
        "mig-7g.40gb": 1,
    }


def test_indices_without_a_device_are_skipped(host: Host) -> None:
    host.become("all-1g.5gb")
    lines = host.node.read_text(encoding="ascii").splitlines()
    lines[1] = lines[4] = "hole"
    host.node.write_text("\n".join(lines), encoding="ascii")
    shown = host.devices()
    assert [device["index"] for device in shown["gpus"][0]["migDevices"]] == [1, 2, 4, 5, 6]
    assert names(shown) == {"mig-1g.5gb": 54}
    assert shown["problems"] == []


def test_doctor_passes(host: Host) -> None:
    host.kubelet.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.kubelet / "kubelet.sock"))
        done = host.call("doctor")
    verdicts = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert "56 MIG devices" in done.stdout
    assert f"56 × {SMALL}" in done.stdout
    verdicts.pop("permissions:")  # a warning unless the tests run as root
    assert set(verdicts.values()) == {"pass"}, done.stdout
    assert done.returncode == (0 if os.getuid() == 0 else 1)


@without_driver
def test_commands_without_a_library(host: Host, tmp_path: Path) -> None:
    shown = host.call("devices", LD_LIBRARY_PATH=str(tmp_path))
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert len(shown.stderr.splitlines()) == 1
    assert shown.stderr.startswith("mig-device-plugin: cannot load libnvidia-ml.so.1")
    done = host.call("doctor", LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 2
    (failure,) = [
        line for line in done.stdout.splitlines() if line.startswith("fail") and "driver" in line
    ]
    assert "cannot load libnvidia-ml.so.1" in failure


def test_doctor_without_a_loaded_driver(host: Host) -> None:
    build.write_node(host.node, answers={"nvmlInitWithFlags": DRIVER_NOT_LOADED})
    done = host.call("doctor")
    assert done.returncode == 2
    assert "initialising NVML failed: Driver Not Loaded" in done.stdout
    assert "the kernel module is not loaded" in done.stdout


# The scan


@pytest.mark.parametrize(
    "geometry", ["mig-off", "all-enabled", "all-1g.5gb", "all-balanced", MIXTURE]
)
def test_scan_equals_the_simulated_drivers(
    host: Host, monkeypatch: pytest.MonkeyPatch, geometry: str
) -> None:
    """Nothing is lost or changed between C structures and the inventory."""
    monkeypatch.setenv(build.NODE_VARIABLE, str(host.node))
    host.become(geometry)
    files = DeviceFiles(host.root, proc=host.root / "proc", sys=host.root / "sys")
    driver = NvmlDriver(files, ctypes.CDLL(str(host.library)))
    driver.open()
    try:
        inventory = driver.scan()
    finally:
        driver.close()
    assert inventory.gpus == scan(parse_node(f"p4d.24xlarge:{geometry}")).gpus


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
