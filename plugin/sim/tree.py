"""Writes a simulated node's files below a folder, so that code that reads them can be tried without
hardware.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

from plugin.errors import SimulationError
from plugin.sim.driver import MIG_MINORS, capability_minor
from plugin.sim.hardware.engine import CONTROL_NODES, SimNode
from plugin.sim.hardware.geometry import MAX_GPUS

_TOPS = ("dev", "proc", "sys")
_MARK = ".simulated-node"
_GPU_INSTANCES = 15
_COMPUTE_INSTANCES = 8
_CAPABILITIES = "/proc/driver/nvidia/capabilities"
_READABLE = 292  # 0444: what instances and the monitor have
_OWNER_ONLY = 256  # 0400: what the config capability has


def write(engine: SimNode, folder: Path) -> None:
    """Make ``folder`` hold ``dev``, ``proc`` and ``sys`` as the node has them now.

    Files that are as they should be are left alone, others of an earlier state are removed with
    their folders. Raises :class:`~plugin.errors.SimulationError` for a folder that has such files
    from elsewhere, such as ``/``.
    """
    mark = folder / _MARK
    if not mark.exists() and any((folder / top).exists() for top in _TOPS):
        raise SimulationError(
            f"{folder} has {', '.join(_TOPS)} that no simulation wrote; name an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    wanted = {
        folder / path.lstrip("/"): text
        for path, text in _files(engine)
        if path not in engine.faults.removed
    }
    for top in _TOPS:
        for folders, _, names in os.walk(folder / top, topdown=False):
            for name in names:
                if Path(folders, name) not in wanted:
                    Path(folders, name).unlink()
            if not any(Path(folders).iterdir()):
                Path(folders).rmdir()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="ascii") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")


def _files(engine: SimNode) -> Iterator[tuple[str, str]]:
    """Absolute path and content of every file."""
    for node in CONTROL_NODES:
        yield node, ""
    yield MIG_MINORS, mig_minors()
    yield from _capability(f"{_CAPABILITIES}/mig/config", 1, _OWNER_ONLY)
    yield from _capability(f"{_CAPABILITIES}/mig/monitor", 2)
    for gpu in engine.gpus:
        yield f"/dev/nvidia{gpu.minor}", ""
        numa = -1 if gpu.numa is None else gpu.numa
        yield f"/sys/bus/pci/devices/{gpu.pci_bus_id}/numa_node", f"{numa}\n"
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
    """The driver's table of capability minors, which lists everything that could exist."""
    lines = ["config 1", "monitor 2"]
    for gpu in range(MAX_GPUS):
        for gi in range(_GPU_INSTANCES):
            lines.append(f"gpu{gpu}/gi{gi}/access {capability_minor(gpu, gi)}")
            lines += [
                f"gpu{gpu}/gi{gi}/ci{ci}/access {capability_minor(gpu, gi, ci)}"
                for ci in range(_COMPUTE_INSTANCES)
            ]
    return "\n".join(lines) + "\n"
