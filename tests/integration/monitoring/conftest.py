"""A daemon on a simulated node, scraped by a real Prometheus as the chart configures it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from plugin.sim.kubelet.kubelet import SimKubelet
from tests.integration.conftest import StartDaemon
from tests.integration.prometheus import free_port, running
from tests.integration.waiting import SECONDS

from .release import MONITORING, ONE, Watched, render, scrape_config, start


@pytest_asyncio.fixture
async def kubelet(node_dir: Path) -> AsyncIterator[SimKubelet]:
    """With pod resources, other than the usual one."""
    folder = node_dir / "plugins"
    async with SimKubelet(
        folder, pod_resources_dir=node_dir / "pods", readmission_s=None, seed=1
    ) as running_kubelet:
        yield running_kubelet


@pytest_asyncio.fixture
async def watched(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> AsyncIterator[Watched]:
    """A daemon whose devices stay out of service until told otherwise, and a Prometheus that has
    scraped it.
    """
    release = render(MONITORING)
    port = free_port()
    daemon = await start(node_dir, start_daemon, port)
    # Prometheus takes 5 s to its first scrape, in which the daemon starts.
    async with running(
        node_dir / "prometheus", [scrape_config(release, port)], release["PrometheusRule"]["spec"]
    ) as it:
        await kubelet.wait_allocatable(ONE, 16, SECONDS)
        await it.holds("mig_device_plugin_device_memory_total_bytes")
        await it.settles()
        yield Watched(
            daemon,
            kubelet,
            it,
            f"http://127.0.0.1:{port}",
            str(node_dir / "control" / "control.sock"),
        )
