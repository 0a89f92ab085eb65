"""The daemon as a process beside an API server: devices are served whatever that does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from plugin.sim.apiserver.server import SimApiServer
from plugin.sim.kubelet.kubelet import SimKubelet

from .cluster.reported import FLAGS, TOKEN, kubeconfig, user_of
from .cluster.subject import NODE
from .waiting import becomes

if TYPE_CHECKING:
    from .conftest import StartDaemon

SIMULATED = "1xa100-40gb:all-1g.5gb"
ONE = "nvidia.com/mig-1g.5gb"
ALL = (
    "--node-labels",
    "--node-events",
    "--node-condition=MigDevicesHealthy",
    "--node-taint=nvidia.com/gpu-needs-reset:NoSchedule",
    "--startup-taint=nvidia.com/gpu-starting:NoSchedule",
)
STARTING = {"taints": [{"key": "nvidia.com/gpu-starting", "effect": "NoSchedule"}]}


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[SimApiServer]:
    async with SimApiServer(users=user_of(*FLAGS.values())) as server:
        server.add_node(NODE, spec=STARTING)
        yield server


def labels(server: SimApiServer) -> dict[str, str]:
    found: dict[str, str] = server.node(NODE)["metadata"]["labels"]
    return found


def condition(server: SimApiServer) -> str:
    conditions = server.node(NODE)["status"]["conditions"]
    return next((c["status"] for c in conditions if c["type"] == "MigDevicesHealthy"), "")


@pytest.mark.asyncio
async def test_all_features_of_a_daemon(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon, cluster: SimApiServer
) -> None:
    path = kubeconfig(node_dir, cluster, TOKEN)
    daemon = await start_daemon(SIMULATED, *ALL, f"--kubeconfig={path}", NODE_NAME=NODE)
    await becomes(lambda: labels(cluster).get(f"{ONE}.count") == "7", lambda: daemon.log)
    await becomes(lambda: condition(cluster) == "True", lambda: daemon.log)
    await becomes(lambda: "taints" not in cluster.node(NODE)["spec"], lambda: daemon.log)
    assert kubelet.node_status() == {ONE: (7, 7)}
    assert await daemon.stop() == 0
    assert condition(cluster) == "Unknown"
    assert labels(cluster)[f"{ONE}.count"] == "7"
    # Off again: labels and condition go, and the record with them.
    daemon = await start_daemon(SIMULATED, f"--kubeconfig={path}", NODE_NAME=NODE)
    await becomes(lambda: not (node_dir / "cluster-features").exists(), lambda: daemon.log)
    assert not condition(cluster)
    assert [key for key in labels(cluster) if key.startswith("nvidia.com/")] == []
    assert await daemon.stop() == 0


@pytest.mark.asyncio
async def test_without_an_api_server_devices_are_served_and_it_ends(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon, cluster: SimApiServer
) -> None:
    path = kubeconfig(node_dir, cluster, TOKEN)
    await cluster.away()
    daemon = await start_daemon(SIMULATED, *ALL, f"--kubeconfig={path}", NODE_NAME=NODE)
    await kubelet.wait_for(lambda: kubelet.node_status() == {ONE: (7, 7)}, 20)
    await daemon.logged("API server does not answer")
    await cluster.back()
    await becomes(lambda: condition(cluster) == "True", lambda: daemon.log)
    await cluster.away()
    assert await daemon.stop() == 0
    assert daemon.log.count("API server does not answer") == 1


@pytest.mark.asyncio
async def test_an_unknown_api_server_is_logged_and_devices_are_served(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    missing = node_dir / "missing"
    daemon = await start_daemon(SIMULATED, "--node-labels", f"--kubeconfig={missing}")
    await daemon.logged("nothing is written to the cluster")
    await kubelet.wait_for(lambda: kubelet.node_status() == {ONE: (7, 7)}, 20)
    assert str(missing) in daemon.log
    assert await daemon.stop() == 0
