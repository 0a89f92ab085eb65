"""Preferred allocation over 896 ids: 8 GPUs × 7 devices × 16 replicas."""

from __future__ import annotations

import time
from collections.abc import Sequence

from plugin.core.advertise.advertisement import advertise
from plugin.core.preference import prefer
from plugin.core.settings import MigStrategy, Policy, Settings, SharedResource, Sharing
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.wire import PluginConnection
from tests.benchmarks.node import DEVICES, NODE, RESOURCE, Shared, new_node
from tests.benchmarks.row import Row
from tests.simulated import scan

REPLICAS = 16
IDS = DEVICES * REPLICAS
REPETITIONS = 40
#: One, a GPU's worth of devices, and half of everything.
SIZES = (1, 7, IDS // 2)

_CONFIG = f"""\
version: v1
sharing:
  timeSlicing:
    resources:
      - name: {RESOURCE}
        replicas: {REPLICAS}
"""


async def preferred(shared: Shared) -> Sequence[Row]:
    """In process by both policies, then through gRPC to a daemon of its own."""
    del shared
    rows = [
        Row(
            f"preferred allocation, {IDS} ids, {policy}",
            "ms",
            _in_process(policy, size),
            {"max": 10},
            f"of {size}",
        )
        for policy in Policy
        for size in SIZES
    ]
    async with new_node() as node:
        config = node.directory / "config.yaml"
        config.write_text(_CONFIG, encoding="ascii")
        async with node.daemon(f"--config-file={config}") as daemon:
            await node.listed(IDS)
            ids = [device.id for device in node.kubelet.messages[-1].devices]
            connection = PluginConnection(RESOURCE, node.socket().name, node.socket())
            took = []
            try:
                for _ in range(REPETITIONS):
                    before = time.perf_counter()
                    chosen = await connection.prefer(ids, SIZES[-1])
                    took.append((time.perf_counter() - before) * 1000)
                    _check(chosen, SIZES[-1])
            finally:
                await connection.close()
            await daemon.stop()
    what = f"preferred allocation, {IDS} ids, through gRPC"
    return [*rows, Row(what, "ms", tuple(took), note=f"of {SIZES[-1]}, from Python's gRPC")]


def _in_process(policy: Policy, size: int) -> tuple[float, ...]:
    sharing = Sharing((SharedResource(RESOURCE, REPLICAS),))
    settings = Settings(mig_strategy=MigStrategy.MIXED, sharing=sharing)
    listed = advertise(scan(parse_node(NODE)), settings).resources[RESOURCE]
    ids = [item.id for item in listed]
    took = []
    for _ in range(REPETITIONS):
        before = time.perf_counter()
        preference = prefer(listed, ids, (), size, policy=policy, shared_policy=Policy.DISTRIBUTED)
        took.append((time.perf_counter() - before) * 1000)
        _check(preference.ids, size)
    return tuple(took)


def _check(ids: Sequence[str], size: int) -> None:
    if len(set(ids)) != size:
        raise RuntimeError(f"{size} ids were wanted, {len(set(ids))} came")
