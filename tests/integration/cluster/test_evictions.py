"""The policy ``evict``: pods in the way, and those alone, through the Eviction API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import State
from plugin.core.settings import Settings
from plugin.reporting.evictions import PodEvictor
from plugin.sim.apiserver.eviction import Budget
from plugin.sim.apiserver.faults import Fault
from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.server import SimApiServer
from tests.partition_rig import Rig, devices, rig, uuids

from .clock import virtual
from .partitioned import BALANCED
from .reported import granted, user_of
from .subject import NODE, talking

FLAG = "--partition-in-use=evict"


@contextlib.asynccontextmanager
async def held(
    folder: Path, *, owner: str = "ReplicaSet"
) -> AsyncIterator[tuple[SimApiServer, Rig]]:
    """Two GPUs with seven instances each; two pods hold one each of GPU 0."""
    async with talking(user_of(FLAG)) as talk:
        server = talk.server
        evictor = PodEvictor(Settings(), lambda: talk.client)
        async with rig("2xa100-40gb:all-1g.5gb", folder, evictor=evictor) as here:
            first = uuids(here.node, 0)
            for name, uuid in (("train", first[0]), ("other", first[6])):
                server.add_pod(NODE, name, namespace="ml", owner=owner, labels={"app": name})
                here.hold(name, uuid)
            yield server, here


def asked(server: SimApiServer) -> list[str]:
    """Pods of which the eviction was asked for."""
    return [
        each.asked.name
        for each in server.journal.requests
        if (each.asked.resource, each.asked.verb) == ("pods/eviction", "create")
    ]


@virtual
async def test_pods_in_the_way_are_evicted_and_no_others(tmp_path: Path) -> None:
    async with held(tmp_path) as (server, here):
        here.order("all-balanced", Policy.EVICT)
        await here.settled()
        await asyncio.sleep(10)
        gone = set(asked(server))
        assert gone
        assert len(asked(server)) == len(gone)  # once each
        assert here.progress.state is State.WAITING
        for name in gone:
            here.held.pop(name)
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [BALANCED] * 2
        used = {
            (each.asked.group, each.asked.resource, each.asked.verb)
            for each in server.journal.requests
        }
        assert used == granted(FLAG) - granted()
        # Whoever stays has its device still.
        assert all(uuid in uuids(here.node, 0) for held in here.held.values() for uuid in held)


@pytest.mark.parametrize(
    ("owner", "why"), [("DaemonSet", "its DaemonSet would start it again"), ("Node", "its Node")]
)
def test_pods_that_would_return_are_left(tmp_path: Path, owner: str, why: str) -> None:
    @virtual
    async def left() -> None:
        async with held(tmp_path, owner=owner) as (server, here):
            here.order("all-3g.20gb", Policy.EVICT)
            await here.settled()
            await asyncio.sleep(600)
            assert asked(server) == []
            (note,) = here.progress.notes
            assert why in note
            # One list for each pod a minute.
            assert len(server.journal.of("list")) <= 24

    left()


@virtual
async def test_a_spent_budget_is_asked_again(tmp_path: Path) -> None:
    async with held(tmp_path) as (server, here):
        server.budgets.append(Budget("ml", "train", {"app": "train"}, 0))
        here.order("all-3g.20gb", Policy.EVICT)
        await here.settled()
        await asyncio.sleep(60)
        (note,) = here.progress.notes
        assert note == "pod ml/train is not evicted yet: its disruption budget allows none now"
        assert asked(server).count("other") == 1
        here.held.pop("other")
        server.budgets.clear()
        await asyncio.sleep(60)
        assert not here.progress.notes
        here.held.pop("train")
        assert (await here.ended()).state is State.SUCCESS


@virtual
async def test_without_the_api_server_it_waits_and_says_so(tmp_path: Path) -> None:
    async with held(tmp_path) as (server, here):
        await server.away()
        here.order("all-3g.20gb", Policy.EVICT)
        await here.settled()
        await asyncio.sleep(120)
        (note,) = here.progress.notes
        assert note.startswith("pods cannot be evicted now: ")
        assert devices(here.node)[1] == {"3g.20gb": 2}
        # Another order does not wait for the API server.
        here.order("all-1g.5gb", Policy.WAIT)
        assert (await here.ended(10)).state is State.SUCCESS
        await server.back()


@virtual
async def test_without_the_right_it_says_so(tmp_path: Path) -> None:
    async with held(tmp_path) as (server, here):
        server.faults.plan(Fault(refusal=Refused(403, "forbidden")))
        here.order("all-3g.20gb", Policy.EVICT)
        await here.settled()
        await asyncio.sleep(10)
        assert any("403" in note for note in here.progress.notes)


@pytest.mark.asyncio
async def test_outside_a_cluster_it_says_so(tmp_path: Path) -> None:
    settings = Settings(kubeconfig=str(tmp_path / "missing"), node_name=NODE)
    evictor = PodEvictor(settings, lambda: None)
    async with rig("1xa100-40gb:all-1g.5gb", tmp_path, evictor=evictor) as here:
        here.hold("train", *uuids(here.node, 0)[:1])
        here.order("all-3g.20gb", Policy.EVICT)
        await here.settled()
        (note,) = here.progress.notes
        assert note.startswith("pods cannot be evicted: ")
        assert str(tmp_path / "missing") in note
