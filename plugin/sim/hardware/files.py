"""The driver's files on a simulated node: device nodes, capabilities, and what sysfs says."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from plugin.sim.hardware.geometry import MAX_GPUS

if TYPE_CHECKING:
    from plugin.sim.hardware.engine import SimNode

#: Control nodes of a loaded driver; ``nvidia-modeset`` needs a display driver.
CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
#: Grants the right to partition.
CONFIG_NODE = "/dev/nvidia-caps/nvidia-cap1"
MIG_MINORS = "/proc/driver/nvidia-caps/mig-minors"
PRODUCT_NAME = "/sys/class/dmi/id/product_name"
_3D_CONTROLLER = "0x030200"

_GPU_INSTANCES = 15
_COMPUTE_INSTANCES = 8
_CAPABILITIES = "/proc/driver/nvidia/capabilities"
_READABLE = 292  # 0444: instances and the monitor
_OWNER_ONLY = 256  # 0400: the config capability


class SimFiles:
    """The files in memory, as a :class:`plugin.driver.files.FileSource`."""

    def __init__(self, engine: SimNode) -> None:
        self._engine = engine
        self._known: tuple[int, Mapping[str, str]] = (-1, {})
        self._sorted: list[str] = []

    def exists(self, path: str) -> bool:
        return path in self._files()

    def read(self, path: str) -> str | None:
        return self._files().get(path)

    def names(self, folder: str) -> frozenset[str] | None:
        self._files()
        above = f"{folder}/"
        first = bisect.bisect_left(self._sorted, above)
        below = bisect.bisect_left(self._sorted, f"{folder}0", first)  # 0 comes right after /
        found = frozenset(
            path[len(above) :].partition("/")[0] for path in self._sorted[first:below]
        )
        return found or None

    def opened(self) -> tuple[str, ...]:
        """A library that is initialised has the control node and each GPU's open; a driver that is
        not loaded has neither.
        """
        if not self._engine.sessions or not self._engine.faults.available:
            return ()
        return (CONTROL_NODES[0], *(f"/dev/nvidia{gpu.minor}" for gpu in self._engine.gpus))

    def make_node(self, path: str, minor: int, mode: int) -> None:
        del minor, mode  # as the instance has them
        self._engine.faults.restore_node(path)

    def _files(self) -> Mapping[str, str]:
        generation, files = self._known
        now = self._engine.generation  # read before the files, so that later changes are seen
        if generation != now:
            files = node_files(self._engine)
            self._known, self._sorted = (now, files), sorted(files)
        return files


def node_files(engine: SimNode) -> dict[str, str]:
    """Absolute path → text of every file."""
    removed = engine.faults.removed
    return {path: text for path, text in _paths(engine) if path not in removed}


def capability_minor(gpu_minor: int, gi: int, ci: int | None = None) -> int:
    """Minor of ``/dev/nvidia-caps/nvidia-cap<minor>`` for a GPU or compute instance."""
    minor = 3 + 135 * gpu_minor + 9 * gi
    return minor if ci is None else minor + 1 + ci


def _paths(engine: SimNode) -> Iterator[tuple[str, str]]:
    """Absolute path and text of every file, including removed ones."""
    for node in CONTROL_NODES:
        yield node, ""
    yield MIG_MINORS, mig_minors()
    yield PRODUCT_NAME, f"{engine.name}\n"
    yield from _capability(f"{_CAPABILITIES}/mig/config", 1, _OWNER_ONLY)
    yield from _capability(f"{_CAPABILITIES}/mig/monitor", 2)
    for gpu in engine.gpus:
        yield f"/dev/nvidia{gpu.minor}", ""
        numa = -1 if gpu.numa is None else gpu.numa
        yield f"/sys/bus/pci/devices/{gpu.pci_bus_id}/numa_node", f"{numa}\n"
        yield f"/sys/bus/pci/devices/{gpu.pci_bus_id}/class", f"{_3D_CONTROLLER}\n"
        about = f"Model: {gpu.card.product}\nGPU UUID: {gpu.uuid}\nDevice Minor: {gpu.minor}\n"
        yield f"/proc/driver/nvidia/gpus/{gpu.pci_bus_id}/information", about
        mig = f"{_CAPABILITIES}/gpu{gpu.minor}/mig"
        for instance in gpu.instances:
            place = f"{mig}/gi{instance.id}"
            yield from _capability(f"{place}/access", capability_minor(gpu.minor, instance.id))
            for ci in instance.compute:
                yield from _capability(
                    f"{place}/ci{ci.id}/access", capability_minor(gpu.minor, instance.id, ci.id)
                )


def _capability(path: str, minor: int, mode: int = _READABLE) -> Iterator[tuple[str, str]]:
    yield path, f"DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"
    yield f"/dev/nvidia-caps/nvidia-cap{minor}", ""


@functools.cache
def mig_minors() -> str:
    """The driver's table of capability minors for all possible instances."""
    lines = ["config 1", "monitor 2"]
    for gpu in range(MAX_GPUS):
        for gi in range(_GPU_INSTANCES):
            lines.append(f"gpu{gpu}/gi{gi}/access {capability_minor(gpu, gi)}")
            lines += [
                f"gpu{gpu}/gi{gi}/ci{ci}/access {capability_minor(gpu, gi, ci)}"
                for ci in range(_COMPUTE_INSTANCES)
            ]
    return "\n".join(lines) + "\n"
