"""The Node's label names the configuration of a daemon under load: no allocation fails and no
stream breaks, whatever the label says and whether the API server answers or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from plugin.control.client import ask
from plugin.sim.apiserver.server import SimApiServer
from plugin.sim.kubelet.kubelet import SimKubelet

from .cluster.reported import TOKEN, kubeconfig, user_of
from .cluster.subject import NODE as NAME
from .conftest import Daemon, StartDaemon
from .load import NODE, ConfigMap, config, loaded
from .waiting import becomes

LABEL = "nvidia.com/device-plugin.config"

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[SimApiServer]:
    async with SimApiServer(users=user_of("--node-events")) as server:
        server.add_node(NAME)
        yield server


@pytest.fixture
def volume(node_dir: Path) -> ConfigMap:
    found = ConfigMap(node_dir / "configs")
    found.put(default=config("packed"), spread=config("distributed"))
    return found


class Node:
    """A daemon, and what there is to see of its configuration."""

    def __init__(self, daemon: Daemon, cluster: SimApiServer, socket: Path) -> None:
        self.daemon, self._cluster, self._socket = daemon, cluster, socket

    def label(self, value: str | None) -> None:
        self._cluster.change("nodes", NAME, {"metadata": {"labels": {LABEL: value}}})

    async def becomes(self, name: str, problem: str = "") -> None:
        """The configuration of this name is in force, and that is wrong with the newest."""
        async with asyncio.timeout(20):
            while True:
                found = await self._configuration()
                if found["name"] == name and problem in (found["problem"] or "no problem"):
                    assert bool(found["problem"]) is bool(problem), found
                    return
                await asyncio.sleep(0.02)

    async def _configuration(self) -> dict[str, Any]:
        status = await asyncio.to_thread(ask, str(self._socket), "status")
        found: dict[str, Any] = status["configuration"]
        return found

    async def told(self, reason: str, text: str) -> None:
        def found() -> bool:
            events = [event for event in self._cluster.events() if event["reason"] == reason]
            return any(text in event["note"] for event in events)

        await becomes(found, lambda: (self._cluster.events(), self.daemon.log))


@pytest_asyncio.fixture
async def start(
    node_dir: Path, start_daemon: StartDaemon, cluster: SimApiServer, volume: ConfigMap
) -> Any:
    async def start() -> Node:
        path = kubeconfig(node_dir, cluster, TOKEN)
        socket = node_dir / "control" / "control.sock"
        daemon = await start_daemon(
            NODE,
            f"--config-dir={volume.folder}",
            f"--config-label={LABEL}",
            f"--kubeconfig={path}",
            "--node-events",
            NODE_NAME=NAME,
            CONTROL_SOCKET=str(socket),
        )
        return Node(daemon, cluster, socket)

    return start


async def test_the_label_changes_under_load(
    kubelet: SimKubelet, start: Any, cluster: SimApiServer
) -> None:
    node: Node = await start()
    async with loaded(kubelet) as load:
        await node.becomes("default")
        node.label("spread")
        await node.becomes("spread")
        await load.more()
        node.label("unknown")
        await node.becomes(
            "spread", f"'unknown', which the node's label {LABEL} names; the choices"
        )
        await node.told("ConfigurationRefused", "the choices are default, spread; once corrected")
        await load.more()
        node.label(None)
        await node.becomes("default")
        await node.told("ConfigurationAccepted", "configuration default is in force")
        await load.more()
        # Cut off in the middle, and the label changes meanwhile.
        await cluster.away()
        node.label("spread")
        await load.more()
        await node.becomes("default")
        await cluster.back()
        await node.becomes("spread")
        await load.more()
    assert await node.daemon.stop() == 0


async def test_the_api_server_is_away_at_the_start_and_the_last_label_counts(
    kubelet: SimKubelet, start: Any, cluster: SimApiServer, node_dir: Path
) -> None:
    node: Node = await start()
    node.label("spread")
    await node.daemon.logged("configuration=spread")
    await becomes((node_dir / "config-label").exists)
    assert await node.daemon.stop() == 0
    kubelet.registrations.clear()
    await cluster.away()
    node = await start()
    async with loaded(kubelet) as load:
        await node.becomes("spread")
        await load.more()
        node.label(None)
        await cluster.back()
        await node.becomes("default")
        await load.more()
    assert await node.daemon.stop() == 0


async def test_a_first_start_that_only_the_label_decides_asks_for_it(
    kubelet: SimKubelet, start: Any, cluster: SimApiServer, volume: ConfigMap
) -> None:
    volume.put(packed=config("packed"), spread=config("distributed"))
    node: Node = await start()
    await node.daemon.logged(f"and the Node has no label {LABEL}")
    assert await node.daemon.process.wait() == 2
    assert not kubelet.registrations
    await cluster.away()
    node = await start()
    await node.daemon.logged(f"the label {LABEL} is not known: ")
    assert await node.daemon.process.wait() == 2
    await cluster.back()
    node.label("spread")
    node = await start()
    async with loaded(kubelet) as load:
        await node.becomes("spread")
        await load.more()
    assert await node.daemon.stop() == 0
