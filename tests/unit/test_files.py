"""Device nodes, capability files and NUMA nodes, looked up in a folder that looks like a host."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.assembly import device_files
from plugin.core.dev_root import host_dev_root
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.driver.files import DeviceFiles, parse_mig_minors, sysfs_bus_id
from plugin.driver.nvml import NvmlDriver
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.files import SimFiles
from plugin.sim.nvml.library import SimLibrary

IN_ROOT = {"driver_root": "/d"}
APART = {"driver_root": "/d", "dev_root": "/e"}


class Host:
    """A folder with ``dev``, ``proc`` and ``sys``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = DeviceFiles(root, proc=root / "proc", sys=root / "sys")

    def write(self, path: str, text: str = "") -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def write_capability(self, path: str, minor: int) -> None:
        text = f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
        self.write(f"/proc/driver/nvidia/capabilities/{path}/access", text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_control_nodes_are_those_that_exist(host: Host) -> None:
    assert host.files.control_nodes() == ()
    for name in ("nvidia-uvm", "nvidiactl"):
        host.write(f"/dev/{name}")
    assert host.files.control_nodes() == ("/dev/nvidiactl", "/dev/nvidia-uvm")
    host.write("/dev/nvidia-modeset")
    assert host.files.control_nodes()[-1] == "/dev/nvidia-modeset"


def test_the_first_root_with_a_driver_counts_and_may_come_late(tmp_path: Path) -> None:
    mounted, own = Host(tmp_path / "driver-root"), Host(tmp_path / "own")
    own.write("/dev/nvidiactl")
    files = DeviceFiles(mounted.root, own.root)
    files.control_nodes()
    assert files.root == own.root
    mounted.write("/dev/nvidiactl")
    mounted.write("/dev/nvidia0")
    assert not files.exists("/dev/nvidia0")
    files.control_nodes()
    assert files.root == mounted.root
    assert files.exists("/dev/nvidia0")


@pytest.mark.parametrize(
    ("driver_root", "dev_root", "with_nodes", "expected"),
    [
        ("/run/driver", "", ("mounted", "host"), "mounted"),
        ("/run/driver", "host", ("mounted", "host"), "mounted"),
        ("/run/driver", "host", ("host",), "host"),
        ("host", "", ("host",), "host"),
        ("/run/driver", "host", (), "/"),
    ],
)
def test_device_nodes_are_looked_for_where_the_host_s_may_be_mounted(
    tmp_path: Path, driver_root: str, dev_root: str, with_nodes: tuple[str, ...], expected: str
) -> None:
    def placed(root: str) -> str:
        return root if root.startswith("/") or not root else str(tmp_path / root)

    for name in with_nodes:
        Host(tmp_path / name).write("/dev/nvidiactl")
    settings = Settings(
        driver_root=placed(driver_root),
        dev_root=placed(dev_root),
        container_driver_root=str(tmp_path / "mounted"),
    )
    files = device_files(settings)
    files.control_nodes()
    assert str(files.root) == placed(expected)


class Tree:
    """A file system with these paths alone."""

    def __init__(self, *paths: str) -> None:
        self._there = {str(each) for path in paths for each in (Path(path), *Path(path).parents)}

    def exists(self, path: str) -> bool:
        return path in self._there

    def read(self, path: str) -> None: ...

    def names(self, folder: str) -> None: ...

    def opened(self) -> tuple[str, ...]:
        return ()

    def make_node(self, path: str, minor: int, mode: int) -> None:
        raise NotImplementedError(path, minor, mode)


@pytest.mark.parametrize(
    ("changes", "paths", "root"),
    [
        pytest.param({}, ("/dev/nvidiactl",), "", id="one root"),
        pytest.param(IN_ROOT, ("/dev/nvidiactl",), "", id="the driver root is not seen"),
        pytest.param(IN_ROOT, (), "", id="no nodes"),
        pytest.param(
            IN_ROOT, ("/driver-root/usr", "/dev/nvidiactl"), "/", id="mounted, none there"
        ),
        pytest.param(IN_ROOT, ("/d/usr", "/dev/nvidiactl"), "/", id="on the host, none there"),
        pytest.param(IN_ROOT, ("/driver-root/dev/nvidiactl", "/dev/nvidiactl"), "", id="mounted"),
        pytest.param(IN_ROOT, ("/driver-root/usr", "/d/dev/nvidiactl"), "", id="on the host"),
        pytest.param(IN_ROOT, ("/driver-root/usr",), "", id="mounted, no nodes at all"),
        pytest.param(APART, ("/driver-root/usr", "/dev/nvidiactl"), "", id="device root not seen"),
        pytest.param(APART, ("/e/usr", "/dev/nvidiactl"), "/", id="device root without nodes"),
    ],
)
def test_nodes_that_are_not_below_the_device_root_have_the_hosts_own_path(
    changes: dict[str, str], paths: tuple[str, ...], root: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(**changes)  # type: ignore[arg-type]
    files = device_files(settings, Tree("/", *paths))
    for _ in range(2):
        files.control_nodes()
        assert files.host_root == root
    assert len(caplog.records) == bool(root)
    expected = root or settings.dev_root or settings.driver_root
    assert host_dev_root(Inventory(dev_root=root), settings) == expected


class WithRoot(SimFiles):
    def exists(self, path: str) -> bool:
        return path == "/driver-root" or super().exists(path)


def test_a_scan_says_that_the_nodes_are_elsewhere() -> None:
    hardware = parse_node("1xa100-40gb")
    files = device_files(Settings(driver_root="/d"), WithRoot(hardware))
    driver = NvmlDriver(files, SimLibrary(hardware))
    driver.open()
    assert driver.scan().dev_root == "/"
    driver.close()


def test_nodes_of_a_gpu(host: Host) -> None:
    assert host.files.gpu(0) == (("/dev/nvidia0",), ("/dev/nvidia0",))
    host.write("/dev/nvidia0")
    assert host.files.gpu(0) == (("/dev/nvidia0",), ())
    assert host.files.gpu(None) == ((), ())


def test_nodes_of_a_mig_device_by_its_own_files(host: Host) -> None:
    host.write("/proc/driver/nvidia-caps/mig-minors", "gpu2/gi1/access 1\ngpu2/gi1/ci0/access 2\n")
    host.write_capability("gpu2/mig/gi1", 282)
    host.write_capability("gpu2/mig/gi1/ci0", 283)
    for node in ("nvidia2", "nvidia-caps/nvidia-cap282", "nvidia-caps/nvidia-cap283"):
        host.write(f"/dev/{node}")
    nodes = ("/dev/nvidia2", "/dev/nvidia-caps/nvidia-cap282", "/dev/nvidia-caps/nvidia-cap283")
    assert host.files.mig(2, 1, 0) == (nodes, ())


def test_nodes_of_a_mig_device_by_the_table_of_minors(host: Host) -> None:
    host.write(
        "/proc/driver/nvidia-caps/mig-minors",
        "config 1\ngpu2/gi1/access 282\ngpu2/gi1/ci0/access 283\n",
    )
    nodes, missing = host.files.mig(2, 1, 0)
    assert nodes == (
        "/dev/nvidia2",
        "/dev/nvidia-caps/nvidia-cap282",
        "/dev/nvidia-caps/nvidia-cap283",
    )
    assert missing == nodes


def test_a_table_of_minors_that_comes_with_the_driver_is_found(host: Host) -> None:
    assert host.files.mig(0, 1, 0)[0] == ("/dev/nvidia0",)
    host.write(
        "/proc/driver/nvidia-caps/mig-minors", "gpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\n"
    )
    assert host.files.mig(0, 1, 0)[0][1:] == (
        "/dev/nvidia-caps/nvidia-cap12",
        "/dev/nvidia-caps/nvidia-cap13",
    )


@pytest.mark.parametrize(
    "content", ["", "DeviceFileMode: 292\n", "DeviceFileMinor: x\n", "\x00\xff"]
)
def test_a_capability_without_a_number_is_missing_by_its_name(host: Host, content: str) -> None:
    host.write("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", content)
    host.write_capability("gpu0/mig/gi1/ci0", 13)
    host.write("/dev/nvidia0")
    nodes, missing = host.files.mig(0, 1, 0)
    assert nodes == ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap13")
    assert missing == (
        "/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access",
        "/dev/nvidia-caps/nvidia-cap13",
    )


def test_without_a_minor_nothing_is_known(host: Host) -> None:
    assert host.files.mig(None, 1, 0) == ((), ())


@pytest.mark.parametrize(
    ("text", "node"),
    [("0\n", 0), ("3\n", 3), ("-1\n", None), ("", None), ("many\n", None), (None, None)],
)
def test_numa(host: Host, text: str | None, node: int | None) -> None:
    if text is not None:
        host.write("/sys/bus/pci/devices/0000:00:06.0/numa_node", text)
    assert host.files.numa("0000:00:06.0") == node


@pytest.mark.parametrize(
    ("text", "number"),
    [("0x030200\n", 0x030200), ("", None), ("3D\n", 0x3D), ("?", None), (None, None)],
)
def test_pci_class(host: Host, text: str | None, number: int | None) -> None:
    if text is not None:
        host.write("/sys/bus/pci/devices/0000:00:06.0/class", text)
    assert host.files.pci_class("0000:00:06.0") == number


@pytest.mark.parametrize(
    ("text", "name"), [("p4d.24xlarge\n", "p4d.24xlarge"), ("", ""), (None, "")]
)
def test_the_machines_product_name(host: Host, text: str | None, name: str) -> None:
    if text is not None:
        host.write("/sys/class/dmi/id/product_name", text)
    assert host.files.machine() == name


@pytest.mark.parametrize(
    ("nvml", "sysfs"),
    [
        ("00000000:00:06.0", "0000:00:06.0"),
        ("00000000:DB:00.0", "0000:db:00.0"),
        ("00000001:00:00.0", "0001:00:00.0"),
        ("0000:3b:00.0", "0000:3b:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
        ("", ""),
    ],
)
def test_bus_ids_as_sysfs_writes_them(nvml: str, sysfs: str) -> None:
    assert sysfs_bus_id(nvml) == sysfs


@pytest.mark.parametrize(
    ("text", "minors"),
    [
        ("", {}),
        ("config 1\nmonitor 2\n", {"config": 1, "monitor": 2}),
        ("gpu31/gi14/ci7/access 4321", {"gpu31/gi14/ci7/access": 4321}),
        ("  gpu0/gi0/access\t3  \r\n", {"gpu0/gi0/access": 3}),
        ("alone\n\nname x\nname -1\na b 3\nname 1.0\nname \u0663\n", {}),
        ("a 1\nbroken\na 2\n", {"a": 2}),
    ],
)
def test_table_of_minors(text: str, minors: dict[str, int]) -> None:
    assert parse_mig_minors(text) == minors


_word = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1)


@given(st.dictionaries(_word, st.integers(0, 1 << 20)))
def test_a_table_of_minors_survives_being_written(minors: dict[str, int]) -> None:
    assert (
        parse_mig_minors("".join(f"{name} {minor}\n" for name, minor in minors.items())) == minors
    )


@given(st.text())
def test_any_text_is_a_table_of_minors(text: str) -> None:
    assert all(name and minor >= 0 for name, minor in parse_mig_minors(text).items())
