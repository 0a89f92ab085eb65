"""Watches against the stand-in: whatever ends them, the collection becomes the server's again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from plugin.cluster.failures import Cause
from plugin.core.cluster import Pod, PodPhase
from plugin.sim.apiserver.faults import Fault, How, WatchFault
from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.server import SimApiServer

from .clock import virtual
from .subject import NODE, client_of, running, talking, until


@virtual
async def test_the_own_node_is_followed_and_no_other() -> None:
    async with talking() as talk:
        watched = talk.client.watch_node()
        assert not watched.now.synced
        talk.server.add_node("gpu-2")
        async with running(watched):
            known = await until(watched, lambda now: now.live)
            assert set(known.items) == {NODE}
            talk.server.change("nodes", NODE, {"metadata": {"labels": {"zone": "b"}}})
            talk.server.change("nodes", "gpu-2", {"metadata": {"labels": {"zone": "c"}}})
            known = await until(watched, lambda now: now.items[NODE].labels["zone"] == "b")
            generation = known.generation
            # Kubelet's status changes the version and nothing that we look at.
            talk.server.change("nodes", NODE, {"status": {"nodeInfo": {"x": "y"}}})
            version = talk.server.node(NODE)["metadata"]["resourceVersion"]
            await asyncio.sleep(1)
            assert watched.now.generation == generation
            assert watched.now.items[NODE].version == version
            sent = sum(talk.server.journal.bytes_out.values())
            assert sent < 4000, "metadata only"
        assert not watched.now.live
        assert watched.now.items, "the last known stays"


@virtual
async def test_pods_of_the_node_come_change_and_go() -> None:
    async with talking() as talk:
        talk.server.add_pod(NODE, "train", namespace="ml", labels={"app": "x"})
        talk.server.add_pod(
            NODE, "static", owner="Node", annotations={"kubernetes.io/config.mirror": "x"}
        )
        talk.server.add_pod("gpu-2", "elsewhere")
        watched = talk.client.watch_pods()
        async with running(watched):
            known = await until(watched, lambda now: now.live)
            by_name = {pod.name: pod for pod in known.items.values()}
            assert set(by_name) == {"train", "static"}
            train = by_name["train"]
            assert train == Pod(
                "ml", "train", train.uid, PodPhase.RUNNING, {"app": "x"}, "ReplicaSet"
            )
            assert by_name["static"].mirror
            talk.server.change("pods", "train", {"status": {"phase": "Succeeded"}}, "ml")
            await until(watched, lambda now: now.items[train.uid].finished)
            talk.server.remove_pod("train", "ml")
            new = talk.server.add_pod(NODE, "train", namespace="ml")["metadata"]["uid"]
            known = await until(watched, lambda now: new in now.items)
            assert train.uid not in known.items


@pytest.mark.parametrize("fault", WatchFault)
@pytest.mark.parametrize("as_status", [False, True])
@virtual
async def test_whatever_ends_a_watch_nothing_is_missed(fault: WatchFault, as_status: bool) -> None:  # noqa: FBT001
    async with talking() as talk:
        talk.server.api.expired_as_status = as_status
        old = talk.server.add_pod(NODE, "old")["metadata"]["uid"]
        watched = talk.client.watch_pods()
        async with running(watched):
            await until(watched, lambda now: now.live)
            assert talk.server.disturb_watches(fault) == 1
            await asyncio.sleep(0.1)
            talk.server.remove_pod("old")
            if fault is not WatchFault.SILENT:
                talk.server.storage.expire()
            new = talk.server.add_pod(NODE, "new")["metadata"]["uid"]
            known = await until(watched, lambda now: now.live and new in now.items)
            assert old not in known.items
            listed = len(talk.server.journal.of("list"))
            assert listed == (1 if fault is WatchFault.SILENT else 2)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (WatchFault.CUT_IN_LINE, Cause.RESET),
        (WatchFault.END_IN_LINE, Cause.RESET),
        (WatchFault.GARBAGE, Cause.INVALID),
        (WatchFault.LONG_LINE, Cause.TOO_LARGE),
        (WatchFault.SILENT, Cause.TIMEOUT),
    ],
)
@virtual
async def test_a_watch_that_breaks_off_is_counted_with_its_cause(
    fault: WatchFault, cause: Cause
) -> None:
    async with talking() as talk:
        watched = talk.client.watch_pods()
        async with running(watched):
            await until(watched, lambda now: now.live)
            talk.server.disturb_watches(fault)
            await until(watched, lambda now: not now.live)
            assert talk.client.traffic.requests["watch", "pods", cause] == 1


@virtual
async def test_a_cut_within_a_line_goes_on_from_the_last_version_without_a_list() -> None:
    async with talking() as talk:
        watched = talk.client.watch_node()
        async with running(watched):
            await until(watched, lambda now: now.live)
            talk.server.disturb_watches(WatchFault.CUT_IN_LINE)
            await until(watched, lambda now: not now.live)
            talk.server.change("nodes", NODE, {"metadata": {"labels": {"zone": "b"}}})
            await until(watched, lambda now: now.items[NODE].labels["zone"] == "b", 5)
        assert len(talk.server.journal.of("list")) == 1
        assert talk.client.traffic.requests["watch", "nodes", "connection-lost"] == 1
        assert talk.client.traffic.away_since is None


@virtual
async def test_a_quiet_time_costs_less_than_a_request_a_minute() -> None:
    async with talking() as talk:
        node, pods = talk.client.watch_node(), talk.client.watch_pods()
        async with running(node, pods):
            await asyncio.sleep(3600)
            talk.server.storage.expire()  # bookmarks keep the versions new enough
            await asyncio.sleep(5 * 3600)
            assert node.now.live
            assert pods.now.live
        requests = talk.client.traffic.requests
        assert sum(requests.values()) < 6 * 60
        assert set(requests) == {
            (verb, what, "200") for verb in ("list", "watch") for what in ("nodes", "pods")
        }


@pytest.mark.parametrize(
    "fault",
    [
        Fault("watch", refusal=Refused(403, "no")),
        Fault("watch", refusal=Refused(500, "no")),
        Fault("watch", refusal=Refused(410, "no")),
        Fault("watch", how=How.CLOSED),
        Fault("watch", how=How.GARBAGE),
        Fault("list", how=How.GARBAGE),
        Fault("list", refusal=Refused(403, "no")),
    ],
)
@virtual
async def test_a_watch_that_never_works_is_no_busy_loop(fault: Fault) -> None:
    async with talking() as talk:
        planned = talk.server.faults.plan(Fault(fault.verb, refusal=fault.refusal, how=fault.how))
        watched = talk.client.watch_pods()
        async with running(watched):
            await asyncio.sleep(3600)
            assert sum(talk.client.traffic.requests.values()) < 2.5 * 60
            talk.server.faults.clear()
            assert planned.times
            await until(watched, lambda now: now.live, 300)


@virtual
async def test_a_server_that_ends_every_watch_at_once_is_asked_ever_less_often() -> None:
    async with talking() as talk:
        watched = talk.client.watch_node()
        async with running(watched):
            for _ in range(600):
                talk.server.disturb_watches(WatchFault.END)
                await asyncio.sleep(1)
        assert len(talk.server.journal.of("watch")) < 20


@virtual
async def test_a_node_that_comes_late_is_said_to_be_missing_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SimApiServer() as server:
        client = client_of(server)
        watched = client.watch_node()
        async with running(watched):
            await until(watched, lambda now: now.live)
            await asyncio.sleep(3600)
            (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert record.message == "the cluster has no Node of this name"
            server.add_node(NODE)
            await until(watched, lambda now: NODE in now.items, 2)
        client.close()


@virtual
async def test_an_outage_ends_with_the_watch_open_again() -> None:
    async with talking() as talk:
        watched = talk.client.watch_node()
        async with running(watched):
            await until(watched, lambda now: now.live)
            await talk.server.away()
            await until(watched, lambda now: not now.live)
            assert NODE in watched.now.items
            await asyncio.sleep(3 * 3600)
            assert sum(talk.client.traffic.requests.values()) < 3 * 60 + 15
            talk.server.change("nodes", NODE, {"metadata": {"labels": {"zone": "b"}}})
            await talk.server.back()
            await until(watched, lambda now: now.live, 121)
            await until(watched, lambda now: now.items[NODE].labels["zone"] == "b", 1)
