"""The node's label that names the configuration, as the API server has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plugin.core.settings import Settings
from plugin.sim.apiserver.server import SimApiServer
from tests.unit.state_steps import running

from .clock import virtual
from .reported import Reported, configured, kubeconfig, reported
from .subject import NODE

LABEL = "nvidia.com/device-plugin.config"
ON = Settings(config_dir="/etc/configs", config_label=LABEL)


@dataclass
class Followed:
    """``values`` are all that were passed on."""

    subject: Reported
    values: list[str] = field(default_factory=list)

    def label(self, value: str | None) -> None:
        self.subject.server.change("nodes", NODE, {"metadata": {"labels": {LABEL: value}}})

    async def becomes(self, value: str) -> None:
        await self.subject.becomes(lambda: self.values[-1:] == [value])


@contextlib.asynccontextmanager
async def followed(folder: Path, settings: Settings = ON) -> AsyncIterator[Followed]:
    async with reported(folder, running(settings)) as subject:
        found = Followed(subject)
        subject.choose = found.values.append
        yield found


def watches(server: SimApiServer) -> int:
    return len(server.journal.of("watch"))


@virtual
async def test_the_label_is_followed(tmp_path: Path) -> None:
    async with followed(tmp_path) as found, found.subject.running():
        await found.becomes("")  # without the label
        found.label("shared")
        await found.becomes("shared")
        found.label("")
        await found.becomes("")
        found.label("whole")
        await found.becomes("whole")
        found.label(None)
        await found.becomes("")
        assert found.subject.status.problems == ()


@virtual
async def test_it_shares_the_watch_of_the_other_features(tmp_path: Path) -> None:
    settings = Settings(config_label=LABEL, node_labels=True, node_events=True)
    async with followed(tmp_path, settings) as found, found.subject.running():
        await found.becomes("")
        await found.subject.becomes(found.subject.labels)
        found.label("shared")
        await found.becomes("shared")
        assert watches(found.subject.server) == 1
        assert len(found.subject.server.journal.of("list")) == 1


@virtual
async def test_with_a_name_by_option_nothing_is_asked(tmp_path: Path) -> None:
    async with followed(tmp_path) as found:
        configured(found.subject, config_name="whole", node_labels=True)
        async with found.subject.running():
            await found.subject.becomes(found.subject.labels)
            found.label("shared")
            await asyncio.sleep(60)
        assert found.values == []


@virtual
async def test_a_node_that_is_deleted_says_nothing(tmp_path: Path) -> None:
    """Kubelet makes it anew, and whoever set the label may come back too."""
    async with followed(tmp_path) as found, found.subject.running():
        found.label("shared")
        await found.becomes("shared")
        found.subject.server.storage.remove("nodes", "", NODE)
        await asyncio.sleep(5)
        assert found.values[-1] == "shared"
        found.subject.server.add_node(NODE, labels={LABEL: "whole"})
        await found.becomes("whole")


@virtual
async def test_before_the_first_answer_nothing_is_known(tmp_path: Path) -> None:
    async with followed(tmp_path) as found:
        found.label("shared")
        await found.subject.server.away()
        async with found.subject.running():
            await asyncio.sleep(600)
            assert found.values == []
            await found.subject.server.back()
            await found.becomes("shared")
            assert set(found.values) == {"shared"}


@virtual
async def test_without_an_api_server_it_is_looked_for_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with followed(tmp_path) as found:
        (tmp_path / "kubeconfig").unlink()
        async with found.subject.running():
            # The clock jumps while a thread looks: wait for what it finds first.
            await found.subject.becomes(lambda: found.subject.status.problems)
            await asyncio.sleep(600)
            (problem,) = found.subject.status.problems
            assert str(tmp_path / "kubeconfig") in problem
            assert found.values == []
            kubeconfig(tmp_path, found.subject.server)
            await found.becomes("")
        said = "nothing is written to the cluster or read there"
        assert [record.message for record in caplog.records].count(said) == 1
