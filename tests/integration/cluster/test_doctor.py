"""``doctor`` asks the API server whether MIG Manager runs on the node as well."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin.commands.check import Check, Outcome
from plugin.commands.partition_checks import partition_checks
from plugin.core.settings import Settings
from plugin.sim.apiserver.server import SimApiServer

from .partitioned import FLAG, LABEL, STATE
from .reported import TOKEN, kubeconfig, user_of
from .subject import NODE

EVENTS = "--node-events"


def verdict(
    folder: Path, prepare: Callable[[SimApiServer], object], *flags: str, label: str = LABEL
) -> Check:
    async def ask() -> list[Check]:
        async with SimApiServer(users=user_of(*flags)) as server:
            prepare(server)
            settings = Settings(
                node_name=NODE,
                kubeconfig=str(kubeconfig(folder, server, TOKEN)),
                partition_label=label,
                control_socket="",
            )
            return await asyncio.to_thread(lambda: list(partition_checks(settings)))

    (found,) = asyncio.run(ask())
    return found


def manager_pod(server: SimApiServer) -> None:
    server.add_node(NODE)
    server.add_pod(NODE, "mig-x", namespace="gpu", labels={"app": "nvidia-mig-manager"})
    server.add_pod("elsewhere", "mig-y", namespace="gpu", labels={"app": "nvidia-mig-manager"})


def manager_label(server: SimApiServer) -> None:
    server.add_node(NODE)
    patch = {"metadata": {"labels": {STATE: "rebooting"}}}
    server.change("nodes", NODE, patch, manager="nvidia-mig-manager")


def test_its_pod_is_found(tmp_path: Path) -> None:
    found = verdict(tmp_path, manager_pod, FLAG, EVENTS)
    assert (found.name, found.outcome) == ("MIG Manager", Outcome.WARN)
    assert found.detail.endswith("partitions this node as well: pod gpu/mig-x runs here")
    assert f"kubectl label node {NODE} " in found.fix


def test_without_the_right_to_list_pods_its_label_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = verdict(tmp_path, manager_label, FLAG)
    assert "nvidia-mig-manager has written nvidia.com/mig.config.state=rebooting" in found.detail
    assert capsys.readouterr().err == ""


def test_a_node_without_it_passes(tmp_path: Path) -> None:
    assert verdict(tmp_path, lambda server: server.add_node(NODE), FLAG).outcome is Outcome.PASS
    assert verdict(tmp_path, manager_label, FLAG, EVENTS).outcome is Outcome.PASS


def test_what_cannot_be_asked_is_not_known(tmp_path: Path) -> None:
    missing = verdict(tmp_path, lambda _: None, FLAG)
    assert missing.outcome is Outcome.WARN
    assert missing.detail == f"not known: the cluster has no Node {NODE}"
    (absent,) = partition_checks(
        Settings(partition_label=LABEL, kubeconfig=str(tmp_path / "none"), control_socket="")
    )
    assert absent.outcome is Outcome.WARN
    assert absent.detail.startswith("not known: ")
    assert absent.fix


def test_without_a_feature_of_the_cluster_nothing_is_asked_or_loaded() -> None:
    code = (
        "import sys; from plugin.commands.partition_checks import partition_checks; "
        "from plugin.core.settings import Settings; "
        "settings = Settings(partition_config='all-balanced', control_socket=''); "
        "assert list(partition_checks(settings)) == []; "
        "print([name for name in sys.modules if name.startswith('plugin.cluster')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
