"""The node's label that names the configuration, as the API server has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from plugin.cluster.client import ApiClient
from plugin.core.settings import Settings
from plugin.errors import ConfigError
from plugin.following.label import follow, pass_on
from plugin.loops.pulse import Pulse
from plugin.sim.apiserver.server import SimApiServer

from .clock import virtual
from .subject import NODE, Talk, talking

LABEL = "nvidia.com/device-plugin.config"


class Chosen:
    """Every value that was passed on."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._new = Pulse()

    def choose(self, value: str) -> None:
        self.values.append(value)
        self._new.fire()

    async def becomes(self, value: str) -> None:
        async with asyncio.timeout(600):
            while self.values[-1:] != [value]:
                await self._new.wait()


@contextlib.asynccontextmanager
async def followed(talk: Talk) -> AsyncIterator[Chosen]:
    chosen = Chosen()
    settings = Settings(config_label=LABEL)

    async def connect(_settings: Settings) -> ApiClient:
        return talk.client

    following = asyncio.create_task(follow(settings, chosen.choose, connect))
    yield chosen
    assert not following.done()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def label(server: SimApiServer, value: str | None) -> None:
    server.change("nodes", NODE, {"metadata": {"labels": {LABEL: value}}})


@virtual
async def test_the_label_is_followed() -> None:
    async with talking() as talk, followed(talk) as chosen:
        await chosen.becomes("")  # without the label
        label(talk.server, "shared")
        await chosen.becomes("shared")
        label(talk.server, "")
        await chosen.becomes("")
        label(talk.server, "whole")
        await chosen.becomes("whole")
        label(talk.server, None)
        await chosen.becomes("")


@virtual
async def test_a_node_that_is_deleted_says_nothing() -> None:
    """Kubelet makes it anew, and whoever set the label may come back too."""
    async with talking() as talk, followed(talk) as chosen:
        label(talk.server, "shared")
        await chosen.becomes("shared")
        talk.server.storage.remove("nodes", "", NODE)
        await asyncio.sleep(5)
        assert chosen.values[-1] == "shared"
        talk.server.add_node(NODE, labels={LABEL: "whole"})
        await chosen.becomes("whole")


@virtual
async def test_before_the_first_answer_nothing_is_known() -> None:
    async with talking() as talk:
        chosen, node = Chosen(), talk.client.watch_node()
        following = asyncio.create_task(pass_on(node, LABEL, chosen.choose))
        await asyncio.sleep(60)
        assert chosen.values == []
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@virtual
async def test_without_an_api_server_it_is_looked_for_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with talking() as talk:
        tried: list[str] = []

        async def connect(settings: Settings) -> ApiClient:
            tried.append(settings.config_label)
            if len(tried) < 4:
                raise ConfigError("not in a pod", "run it in one")
            return talk.client

        chosen = Chosen()
        following = asyncio.create_task(
            follow(Settings(config_label=LABEL), chosen.choose, connect)
        )
        await chosen.becomes("")
        assert tried == [LABEL] * 4
        lines = [r for r in caplog.records if r.message == "the node's label cannot be followed"]
        assert len(lines) == 1
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
