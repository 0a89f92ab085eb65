"""A daemon's start while a command changes GPUs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plugin.assembly import assemble
from plugin.core.settings import MigStrategy, Settings
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate
from plugin.state.turns import without_daemon
from tests.integration.waiting import becomes

pytestmark = pytest.mark.asyncio


async def test_nothing_is_registered_before_the_command_has_ended(tmp_path: Path) -> None:
    node = parse_node("1xa30-24gb:all-1g.6gb")
    settings = Settings(mig_strategy=MigStrategy.MIXED, kubelet_socket="", control_socket="")
    ledger = tmp_path / "ledger.json"
    daemon = assemble(settings, simulate(node).driver, ledger)
    with without_daemon(ledger, ""):
        await daemon.start()
        edges = daemon.edges()
        running = asyncio.create_task(edges.partitioning.run())
        started = asyncio.create_task(edges.partitioning.started())
        await becomes(lambda: bool(edges.overview().notes))
        assert not started.done()
        (note,) = edges.overview().notes
        assert note.startswith("a partition apply changes the GPUs")
        node.configure("all-2g.12gb")
    async with asyncio.timeout(10):
        await started
    (gpu,) = daemon.writer.store.snapshot.inventory.gpus
    assert [device.profile for device in gpu.mig_devices] == ["2g.12gb"] * 2
    assert edges.overview().notes == ()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
