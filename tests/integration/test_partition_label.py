"""The daemon as a process: what the Node's label names is what kubelet gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from plugin.sim.apiserver.server import SimApiServer
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .cluster.partitioned import FLAG, LABEL, STATE
from .cluster.reported import TOKEN, kubeconfig, user_of
from .cluster.subject import NODE
from .waiting import becomes

if TYPE_CHECKING:
    from .conftest import StartDaemon

pytestmark = pytest.mark.asyncio

ONE, TWO, THREE = (f"nvidia.com/mig-{name}" for name in ("1g.5gb", "2g.10gb", "3g.20gb"))
EVICT, EVENTS = "--partition-in-use=evict", "--node-events"


@pytest_asyncio.fixture
async def kubelet(node_dir: Path) -> AsyncIterator[SimKubelet]:
    async with SimKubelet(
        node_dir / "plugins", pod_resources_dir=node_dir / "pods", readmission_s=None, seed=1
    ) as running:
        yield running
    assert running.violations == []


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[SimApiServer]:
    async with SimApiServer(users=user_of(FLAG, EVICT, EVENTS)) as server:
        server.add_node(NODE)
        yield server


def named(server: SimApiServer, name: str) -> None:
    server.change("nodes", NODE, {"metadata": {"labels": {LABEL: name}}})


def state(server: SimApiServer) -> str:
    found: str = server.node(NODE)["metadata"]["labels"].get(STATE, "")
    return found


def events(server: SimApiServer) -> set[tuple[str, str]]:
    """About whom, and the reasons."""
    return {(each["regarding"]["name"], each["reason"]) for each in server.events()}


async def test_the_walkthrough_by_labels_alone(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon, cluster: SimApiServer
) -> None:
    """From a node with MIG on and no instances, with the policy that is the default."""
    path = kubeconfig(node_dir, cluster, TOKEN)
    daemon = await start_daemon(
        "p4d.24xlarge:all-enabled",
        f"{FLAG}={LABEL}",
        f"--kubeconfig={path}",
        NODE_NAME=NODE,
        POD_RESOURCES_SOCKET=str(node_dir / "pods" / "kubelet.sock"),
    )
    named(cluster, "all-1g.5gb")
    await kubelet.wait_for(lambda: kubelet.node_status() == {ONE: (56, 56)}, 20)
    await becomes(lambda: state(cluster) == "success", lambda: daemon.log)
    assert await kubelet.deploy("replica", ONE, 100) == (56, 44)
    held = {pod.device_ids for pod in kubelet.pods.values() if pod.device_ids}
    assert len(held) == 56

    named(cluster, "all-balanced")
    # Each GPU keeps two slices, and pods get none of the others.
    await kubelet.wait_for(lambda: kubelet.node_status() == {ONE: (56, 16)}, 20)
    assert state(cluster) == "pending"
    assert {(uuid,) for uuid in kubelet.devices(ONE)} == held
    for name in list(kubelet.pods):
        await kubelet.delete(Pod(name.rpartition("/")[2]))
    balanced = {ONE: (16, 16), TWO: (8, 8), THREE: (8, 8)}
    await kubelet.wait_for(lambda: kubelet.node_status() == balanced, 20)
    await becomes(lambda: state(cluster) == "success", lambda: daemon.log)
    for resource, count in ((ONE, 16), (TWO, 8), (THREE, 8)):
        wanted = resource.rpartition("mig-")[2]
        assert await kubelet.deploy(f"wants-{wanted}", resource, 20) == (count, 20 - count)


async def test_a_node_by_labels_alone(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon, cluster: SimApiServer
) -> None:
    """A pod in the way is evicted, and keeps its devices until it has gone."""
    path = kubeconfig(node_dir, cluster, TOKEN)
    daemon = await start_daemon(
        "p4d.24xlarge:all-enabled",
        f"{FLAG}={LABEL}",
        EVICT,
        EVENTS,
        f"--kubeconfig={path}",
        NODE_NAME=NODE,
        POD_RESOURCES_SOCKET=str(node_dir / "pods" / "kubelet.sock"),
    )
    named(cluster, "all-1g.5gb")
    await kubelet.wait_for(lambda: kubelet.node_status().get(ONE) == (56, 56), 20)
    await becomes(lambda: state(cluster) == "success", lambda: daemon.log)
    cluster.add_pod(NODE, "train")
    pod = Pod("train", containers={"main": {ONE: 7}})
    held = (await kubelet.admit(pod)).containers["main"].envs["CUDA_VISIBLE_DEVICES"].split(",")
    named(cluster, "all-balanced")
    await becomes(lambda: bool(cluster.journal.of("create", "pods/eviction")), lambda: daemon.log)
    assert state(cluster) == "pending"
    assert set(held) <= set(kubelet.devices(ONE))
    await kubelet.delete(pod)
    balanced = {ONE: (16, 16), TWO: (8, 8), THREE: (8, 8)}
    await kubelet.wait_for(lambda: kubelet.node_status() == balanced, 20)
    await becomes(lambda: state(cluster) == "success", lambda: daemon.log)
    named(cluster, "nonsense")
    await becomes(lambda: state(cluster) == "failed", lambda: daemon.log)
    assert kubelet.node_status() == balanced
    told = {
        (NODE, "PartitioningStarted"),
        (NODE, "PartitioningWaiting"),
        ("train", "PartitioningWaiting"),
        ("train", "EvictedForPartitioning"),
        (NODE, "PartitioningSucceeded"),
        (NODE, "UnknownMigConfiguration"),
    }
    await becomes(lambda: told <= events(cluster), lambda: f"{events(cluster)}\n{daemon.log}")
    assert await daemon.stop() == 0
