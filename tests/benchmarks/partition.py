"""How long a wanted MIG configuration takes on 8 A100s, and how much of that is the driver's."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from plugin.core.partition.progress import State
from plugin.driver.hangs import Hangs
from plugin.driver.worker import DriverWorker
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.benchmarks.live import ask, controlled, offers, until
from tests.benchmarks.node import DEVICES, NODE, RESOURCE, Node, Shared
from tests.benchmarks.row import Row
from tests.partition_rig import Inline, rig

T = TypeVar("T")

CHANGES = 5
GEOMETRIES = (("all-balanced", (16, 8, 8)), ("all-1g.5gb", (DEVICES, 0, 0)))
RESOURCES = (RESOURCE, "nvidia.com/mig-2g.10gb", "nvidia.com/mig-3g.20gb")


async def partition(shared: Shared) -> Sequence[Row]:
    """A configuration is wanted → its resources are listed, while a pod holds a device that stays;
    from the writing of the command.
    """
    del shared
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pods = Path(folder) / "pods"
        async with SimKubelet(
            Path(folder) / "dp", pod_resources_dir=pods, readmission_s=None
        ) as kubelet:
            node = Node(kubelet)
            options = f"--pod-resources-socket={pods / 'kubelet.sock'}"
            async with controlled(node, options) as control:
                await kubelet.admit(Pod("train", containers={"main": {RESOURCE: 1}}))
                for _ in range(CHANGES):
                    for name, counts in GEOMETRIES:
                        wanted = dict(zip(RESOURCES, counts, strict=True))
                        done = functools.partial(offers, node, wanted)
                        command = ("partition", "apply", name, "", "")
                        took.append(await until(node, control, command, done))
                        while (await ask(control, "partition", "status"))["state"] != "success":
                            pass
    driver = await _drivers_calls()
    beyond = tuple(each - driver for each in took)
    return [
        Row(
            "configuration wanted → its resources listed",
            "ms",
            tuple(took),
            note=f"of that {driver:.0f} ms in calls of the driver",
        ),
        Row("the same, beyond the driver's own calls", "ms", beyond, {"p50": 250}),
    ]


class Timed(Inline):
    """Adds up how long the driver's calls take."""

    seconds = 0.0

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        began = time.perf_counter()
        try:
            return await super().call(function, *args)
        finally:
            self.seconds += time.perf_counter() - began

    async def change(self, function: Callable[..., T], *args: Any) -> T:
        began = time.perf_counter()
        try:
            return await super().change(function, *args)
        finally:
            self.seconds += time.perf_counter() - began


async def _drivers_calls() -> float:
    """Milliseconds in the driver of the same changes, in this process."""
    workers: list[Timed] = []

    def timed(hangs: Hangs) -> DriverWorker:
        workers.append(Timed(hangs))
        return workers[-1]

    took = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with rig(NODE, Path(folder), threads=timed) as here:
            for _ in range(CHANGES):
                for name, _ in GEOMETRIES:
                    workers[-1].seconds = 0.0
                    here.order(name)
                    progress = await here.ended()
                    if progress.state is not State.SUCCESS:
                        raise RuntimeError(f"{name}: {progress.state}")
                    took.append(workers[-1].seconds * 1000)
    return median(took)
