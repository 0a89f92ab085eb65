"""``sim label``: the Node's labels from the command line, each side a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from plugin.sim.apiserver.server import SimApiServer

from .cluster.reported import kubeconfig
from .cluster.subject import NODE
from .test_control import Commands
from .waiting import becomes

if TYPE_CHECKING:
    from .conftest import StartDaemon

pytestmark = pytest.mark.asyncio


@pytest.fixture
def commands(node_dir: Path) -> Commands:
    return Commands(node_dir)


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[SimApiServer]:
    async with SimApiServer() as server:
        server.add_node(NODE, labels={"zone": "a"})
        yield server


async def test_labels_are_set_listed_and_removed(
    node_dir: Path, commands: Commands, start_daemon: StartDaemon, cluster: SimApiServer
) -> None:
    await start_daemon(
        "1xa100-40gb", f"--kubeconfig={kubeconfig(node_dir, cluster)}", NODE_NAME=NODE
    )
    await becomes(commands.socket.exists)
    assert await commands.ok("sim", "label", "a.b/c=d") == "Node gpu-1: a.b/c=d\n"
    host = f"kubernetes.io/hostname={NODE}"
    assert (await commands.ok("sim", "label")).splitlines() == ["a.b/c=d", host, "zone=a"]
    await commands.ok("sim", "label", "a.b/c=")
    assert cluster.node(NODE)["metadata"]["labels"]["a.b/c"] == ""
    assert await commands.ok("sim", "label", "zone-") == "label zone of Node gpu-1 removed\n"
    assert "zone" not in cluster.node(NODE)["metadata"]["labels"]
    refused = await commands.run("sim", "label", "a b=c")
    assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "422 Invalid" in refused.err
    cluster.storage.remove("nodes", "", NODE)
    refused = await commands.run("sim", "label", "a=b")
    assert refused.status == 1
    assert "the cluster has no Node gpu-1" in refused.err
    await cluster.away()
    refused = await commands.run("sim", "label", "a=b")
    assert (refused.status, refused.err.count("\n")) == (1, 1)


async def test_without_an_api_server_the_command_says_what_to_do(
    commands: Commands, start_daemon: StartDaemon
) -> None:
    none = await commands.run("sim", "label", "a=b")
    assert (none.status, "no daemon is running here" in none.err) == (1, True)
    await start_daemon("1xa100-40gb")
    await becomes(commands.socket.exists)
    refused = await commands.run("sim", "label", "a=b")
    assert refused.status == 1
    assert refused.err.endswith("this daemon has no API server; start it with --kubeconfig\n")
    for text in ("ab", "=", "-", "=b"):
        bad = await commands.run("sim", "label", "--", text)
        assert (bad.status, bad.out) == (2, "")
        assert "choose KEY=VALUE, or KEY- to remove the label" in bad.err
