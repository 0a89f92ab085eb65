"""Device nodes of new MIG devices, which the kernel module does not make itself."""

from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path

import pytest

from plugin.core.inventory.model import Placement
from plugin.driver.files import DeviceFiles
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.files import capability_minor
from tests.simulated import opened

ACCESS = "/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access"


class Source:
    """One capability, with a node or without, where nodes can be made or not."""

    def __init__(self, text: str, refuses: int = 0) -> None:
        self.text, self.refuses = text, refuses
        self.made: list[tuple[str, int, int]] = []

    def exists(self, path: str) -> bool:
        return path in {made for made, _, _ in self.made}

    def read(self, path: str) -> str | None:
        return self.text if path == ACCESS else None

    def names(self, folder: str) -> frozenset[str] | None:
        raise NotImplementedError(folder)

    def opened(self) -> Collection[str]:
        raise NotImplementedError

    def make_node(self, path: str, minor: int, mode: int) -> None:
        if self.refuses:
            raise OSError(self.refuses, "no", path)
        self.made.append((path, minor, mode))


def test_what_is_missing_is_made_with_an_instance() -> None:
    node = parse_node("1xh100-80gb:0=on")
    with opened(node) as driver:
        uuid = node.gpu(0).uuid
        (gpu,) = driver.scan().gpus
        profile = next(each for each in driver.profiles(uuid) if each.name == "3g.40gb")
        gi = driver.create_gpu_instance(uuid, profile.profile_id, Placement(0, 4))
        for ci in (None, 0):
            minor = capability_minor(gpu.minor or 0, gi.id, ci)
            node.faults.remove_node(f"/dev/nvidia-caps/nvidia-cap{minor}")
        driver.create_compute_instance(uuid, gi.id, 3)
        (device,) = driver.scan().gpus[0].mig_devices
    assert device.missing_device_nodes == ()
    assert len(device.device_nodes) == 3


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (
            "DeviceFileMinor: 12\nDeviceFileMode: 292\nDeviceFileModify: 1\n",
            [("/root/dev/nvidia-caps/nvidia-cap12", 12, 0o444)],
        ),
        ("DeviceFileMinor: 12\nDeviceFileMode: 292\nDeviceFileModify: 0\n", []),
        ("DeviceFileMinor: 12\n", []),
        ("nonsense", []),
    ],
)
def test_a_node_is_made_as_its_capability_says(text: str, made: list[tuple[str, int, int]]) -> None:
    source = Source(text)
    files = DeviceFiles(Path("/root"), source=source)
    files.make_missing(0, 1, 0)
    files.make_missing(0, 1, 0)
    assert source.made == made


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EROFS, errno.ENODEV])
def test_one_that_cannot_be_made_is_said(refusal: int, caplog: pytest.LogCaptureFixture) -> None:
    source = Source("DeviceFileMinor: 12\nDeviceFileMode: 292\nDeviceFileModify: 1\n", refusal)
    DeviceFiles(Path("/root"), source=source).make_missing(0, 1, 0)
    (line,) = caplog.records
    assert line.getMessage() == "device node not made"
    assert "/dev/nvidia-caps/nvidia-cap12" in vars(line)["node"]
