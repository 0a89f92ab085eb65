"""The files of a simulated node."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.errors import SimulationError
from plugin.sim import tree
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.files import mig_minors


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_mig_minors_lists_all_that_could_exist() -> None:
    lines = mig_minors().splitlines()
    assert len(lines) == 4322
    assert lines[:4] == ["config 1", "monitor 2", "gpu0/gi0/access 3", "gpu0/gi0/ci0/access 4"]
    assert "gpu0/gi3/access 30" in lines
    assert lines[-1] == "gpu31/gi14/ci7/access 4322"


def test_capability_files_are_as_the_driver_writes_them(tmp_path: Path) -> None:
    tree.write(parse_node("1xa100-40gb:0=3g.20gb"), tmp_path)
    capabilities = tmp_path / "proc/driver/nvidia/capabilities"
    expected = {
        "mig/config": "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n",
        "mig/monitor": "DeviceFileMinor: 2\nDeviceFileMode: 292\nDeviceFileModify: 1\n",
        "gpu0/mig/gi1/access": "DeviceFileMinor: 12\nDeviceFileMode: 292\nDeviceFileModify: 1\n",
        "gpu0/mig/gi1/ci0/access": "DeviceFileMinor: 13\nDeviceFileMode: 292\nDeviceFileModify: "
        "1\n",
    }
    assert {name: (capabilities / name).read_text() for name in files(capabilities)} == expected


def test_device_nodes_and_numa_nodes(tmp_path: Path) -> None:
    tree.write(parse_node("2xa100-40gb:0=3g.20gb"), tmp_path)
    assert files(tmp_path / "dev") == {
        *("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1"),
        *(f"nvidia-caps/nvidia-cap{minor}" for minor in (1, 2, 12, 13)),
    }
    numa = tmp_path / "sys/bus/pci/devices"
    assert [(numa / bus / "numa_node").read_text() for bus in ("0000:10:1c.0", "0000:10:1d.0")] == [
        "0\n",
        "1\n",
    ]


def test_writing_again_follows_the_node(tmp_path: Path) -> None:
    node = parse_node("1xa100-40gb:all-1g.5gb")
    tree.write(node, tmp_path)
    minors = tmp_path / "proc/driver/nvidia-caps/mig-minors"
    untouched = minors.stat().st_mtime_ns
    node.configure("mig-off")
    node.faults.remove_node("/dev/nvidiactl")
    tree.write(node, tmp_path)
    assert "dev/nvidiactl" not in files(tmp_path)
    assert not (tmp_path / "proc/driver/nvidia/capabilities/gpu0").exists()
    assert minors.stat().st_mtime_ns == untouched
    node.faults.restore_node("/dev/nvidiactl")
    node.configure("all-1g.5gb")
    tree.write(node, tmp_path)
    fresh = tmp_path / "fresh"
    tree.write(node, fresh)
    assert files(fresh) == {name for name in files(tmp_path) if not name.startswith("fresh/")}


def test_a_folder_of_a_real_node_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").touch()
    with pytest.raises(SimulationError, match="name an empty folder"):
        tree.write(parse_node("p4d.24xlarge"), tmp_path)
    assert files(tmp_path) == {"dev/null"}
