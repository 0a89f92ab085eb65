"""Events and probes through a real ``libnvidia-ml.so.1``:
what C structures say arrives unchanged.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.driver.files import DeviceFiles
from plugin.driver.nvml import NvmlDriver
from plugin.errors import DriverCallFailed, DriverUnavailable
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.native import build

DRIVER_NOT_LOADED = 9
PATIENCE = 10.0

pytestmark = pytest.mark.skipif(
    build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
)


@pytest.fixture
def node_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the library reads its node from."""
    path = tmp_path / "node.txt"
    monkeypatch.setenv(build.NODE_VARIABLE, str(path))
    return path


@pytest.fixture(scope="module", params=["new", "old"])
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp(f"{request.param}-nvml")
    return ctypes.CDLL(str(build.build(folder, old_driver=request.param == "old")))


@pytest.fixture
def node(node_file: Path) -> SimNode:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    build.write_node(node_file, node)
    return node


@pytest.fixture
def driver(node: SimNode, library: ctypes.CDLL, tmp_path: Path) -> Iterator[NvmlDriver]:
    """A driver over the library that knows no files."""
    assert node.gpus
    opened = NvmlDriver(
        DeviceFiles(tmp_path, proc=tmp_path / "proc", sys=tmp_path / "sys"), library
    )
    opened.open()
    yield opened
    opened.close()


def test_events_arrive_as_they_were_sent(
    driver: NvmlDriver, node: SimNode, node_file: Path
) -> None:
    uuids = [gpu.uuid for gpu in node.gpus]
    build.send_event(node_file, EventKind.XID, 0, 13)  # before anybody watches: not kept
    with closing(driver.watch(uuids)) as source, closing(driver.watch(uuids[1:])) as second:
        assert not source.failures
        build.send_event(node_file, EventKind.XID, 0, 79)
        build.send_event(node_file, EventKind.XID, 1, 94, gi=9, ci=0)
        build.send_event(
            node_file, EventKind.MIG_CONFIG, 1, gi=0, ci=0
        )  # means nothing: zeroes that nobody filled in
        expected = [
            DriverEvent(EventKind.XID, uuids[0], data=79),
            DriverEvent(EventKind.XID, uuids[1], 9, 0, 94),
            DriverEvent(EventKind.MIG_CONFIG, uuids[1]),
        ]
        assert [source.wait(PATIENCE) for _ in expected] == expected
        assert [second.wait(PATIENCE) for _ in expected[1:]] == expected[1:]
        assert source.wait(0) is None
        assert second.wait(0.01) is None


def test_a_lost_gpu(driver: NvmlDriver, node: SimNode, node_file: Path) -> None:
    uuids = [gpu.uuid for gpu in node.gpus]
    with closing(driver.watch(uuids)) as source:
        node.lose(0)
        build.write_node(node_file, node)
        assert driver.scan().unreadable.keys() == {0}
        with pytest.raises(DriverCallFailed, match="waiting for events: GPU is lost") as caught:
            source.wait(PATIENCE)
        assert caught.value.gpu_lost
    with closing(driver.watch(uuids)) as source:
        assert source.failures == {uuids[0]: "getting its handle: GPU is lost"}
        assert source.wait(0) is None
    assert driver.probe(uuids[0], thorough=True) == Probe(
        uuids[0], error="getting its handle: GPU is lost", lost=True
    )


def test_probes(driver: NvmlDriver, node: SimNode, node_file: Path, library: ctypes.CDLL) -> None:
    node.set_recovery_action(1, 4)
    build.write_node(node_file, node)
    knows = hasattr(
        library, "nvmlGpuInstanceGetInfo"
    )  # as drivers before R565 do not know the recovery action
    first, second = (gpu.uuid for gpu in node.gpus)
    assert driver.probe(first, thorough=False) == Probe(first, recovery_action=0 if knows else None)
    assert driver.probe(second, thorough=True) == Probe(
        second, recovery_action=4 if knows else None, remap_failure=False
    )


def test_a_driver_that_is_gone(driver: NvmlDriver, node: SimNode, node_file: Path) -> None:
    uuid = node.gpu(0).uuid
    with closing(driver.watch([uuid])) as source:
        build.write_node(node_file, node, {"nvmlInitWithFlags": DRIVER_NOT_LOADED})
        with pytest.raises(DriverUnavailable):
            driver.scan()
        with pytest.raises(DriverCallFailed, match="waiting for events: Driver Not Loaded"):
            source.wait(PATIENCE)
        with pytest.raises(DriverUnavailable, match="making an event set: Driver Not Loaded"):
            driver.watch([uuid])
        assert driver.probe(uuid, thorough=False) == Probe(
            uuid, error="getting its handle: Driver Not Loaded"
        )
    build.write_node(node_file, node)
    driver.close()
    driver.open()
    assert driver.probe(uuid, thorough=False).error is None
