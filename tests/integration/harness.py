"""The daemon's own parts over a simulated node and a stand-in kubelet, in one process, so that a
test can reach the hardware between two lines. Sockets and gRPC are real; only the process boundary
is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from plugin.assembly import assemble
from plugin.core.settings import MigStrategy, Settings
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.simulation import simulate as simulate_node
from plugin.specification import Specification
from plugin.state.writer import Writer

from .waiting import SECONDS

#: Longer than any test: what has been taken out stays out.
NEVER = 80_000.0
ONE_SLICE = "nvidia.com/mig-1g.5gb"


@dataclass
class Live:
    """A running plugin: ``hardware`` is what it watches, ``kubelet`` what it talks to."""

    hardware: SimNode
    node: Writer
    kubelet: SimKubelet

    def healthy(self) -> set[str]:
        """Ids that kubelet may hand out, over all resources."""
        return {name for name, device in self._listed().items() if device}

    def unhealthy(self) -> set[str]:
        return {name for name, device in self._listed().items() if not device}

    def _listed(self) -> dict[str, bool]:
        return {
            name: device.healthy
            for resource in self.kubelet.node_status()
            for name, device in self.kubelet.devices(resource).items()
        }

    async def becomes(self, condition: Callable[[], bool]) -> None:
        await self.kubelet.wait_for(condition, SECONDS)

    async def settled(self) -> None:
        """Wait until everything sent so far has been judged and every probe it caused has been
        answered.
        """
        assert await asyncio.to_thread(self.hardware.wait_heard, SECONDS)
        await self.node.judged()
        await self.node.probe_now()
        await self.node.probe_now()


@contextlib.asynccontextmanager
async def live(
    folder: Path, simulate: str | SimNode, settings: Settings | None = None
) -> AsyncIterator[Live]:
    """Run the plugin on `simulate` until the block ends; ready when kubelet has every list and
    events are watched.
    """
    settings = settings or Settings(mig_strategy=MigStrategy.MIXED, quiet_seconds=NEVER)
    hardware = parse_node(simulate) if isinstance(simulate, str) else simulate
    async with SimKubelet(folder / "plugins", readmission_s=None, seed=1) as kubelet:
        settings = replace(
            settings,
            kubelet_socket=str(kubelet.directory / "kubelet.sock"),
            control_socket="",
            http_address=None,
            pod_resources_socket="",
        )
        ledger = folder / "ledger.json"
        specify = Specification(folder / "cdi", ledger)
        daemon = assemble(settings, simulate_node(hardware).driver, ledger, specify=specify)
        node = daemon.writer
        await daemon.start()
        tasks = [
            asyncio.create_task(part(), name=name) for name, part in daemon.edges().loops.items()
        ]
        running = Live(hardware, node, kubelet)
        try:
            wanted = {
                name: len(ids) for name, ids in node.store.snapshot.advertisement.resources.items()
            }
            await running.becomes(
                lambda: {r: n for r, (n, _) in kubelet.node_status().items()} == wanted
            )
            async with asyncio.timeout(SECONDS):
                await node.watched()
            yield running
            assert [task.exception() for task in tasks if task.done()] == []
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            specify.close()
