"""Events about the Node and about pods that hold devices concerned."""

from __future__ import annotations

import asyncio
from pathlib import Path

from plugin.core import scans
from plugin.core import state as steps
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import Holder
from plugin.sim.apiserver.faults import Fault
from plugin.sim.apiserver.refusal import Refused
from tests.unit.state_steps import LEFT, ON_LEFT, ON_RIGHT, running

from .clock import virtual
from .reported import Reported, reported, user_of
from .subject import NODE

ON = Settings(mig_strategy=MigStrategy.MIXED, node_events=True)
POD = Holder("default", "train", "cuda")


async def ready(subject: Reported) -> None:
    await subject.becomes(lambda: subject.server.journal.of("watch"))


def of_reason(subject: Reported, reason: str) -> list[dict[str, object]]:
    return [each for each in subject.server.events() if each["reason"] == reason]


@virtual
async def test_a_fault_is_told_of_the_node_and_of_the_pod_that_holds_the_device(
    tmp_path: Path,
) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        pod = subject.server.add_pod(NODE, "train")
        subject.server.add_pod("elsewhere", "other")
        subject.holders = {
            LEFT.uuid: (POD, Holder("default", "gone", "x"), Holder("default", "other", "x"))
        }
        await ready(subject)
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await subject.becomes(lambda: len(subject.server.events()) >= 2)
        await asyncio.sleep(60)
        assert subject.events() == [("DeviceFault", NODE), ("DeviceFault", "train")]
        about_node, about_pod = subject.server.events()
        assert about_node["regarding"]["uid"] == subject.server.node(NODE)["metadata"]["uid"]
        assert about_node["metadata"]["namespace"] == "default"
        assert about_pod["regarding"]["uid"] == pod["metadata"]["uid"]
        assert LEFT.uuid in about_pod["note"]
        assert (subject.status.events_sent, subject.status.events_dropped) == (2, 0)


@virtual
async def test_a_storm_is_one_event_with_a_count(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await ready(subject)
        for second in range(600):
            subject.take(steps.happened(subject.state, [ON_LEFT] * 20, float(second)))
            await asyncio.sleep(1)
        await asyncio.sleep(120)
        (event,) = of_reason(subject, "DeviceFault")
        series = event["series"]
        assert isinstance(series, dict)
        assert series["count"] == 600
        assert subject.requests() < 30


@virtual
async def test_in_an_outage_they_wait_and_the_last_tells_how_things_stand(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await ready(subject)
        await subject.server.away()
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await asyncio.sleep(300)
        subject.take(scans.scan_failed(subject.state, scans.driver_unavailable("no driver")))
        await asyncio.sleep(3600)
        assert subject.status.away_since is not None
        assert sum(subject.status.requests.values()) < 150
        await subject.server.back()
        await subject.becomes(lambda: len(subject.server.events()) >= 2)
        assert {reason for reason, _ in subject.events()} == {"DeviceFault", "DriverUnavailable"}


@virtual
async def test_one_that_has_expired_is_made_anew(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await ready(subject)
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await subject.becomes(subject.server.events)
        (first,) = subject.server.events()
        subject.server.storage.remove("events", "default", first["metadata"]["name"])
        subject.take(steps.happened(subject.state, [ON_LEFT], 2.0))
        await subject.becomes(subject.server.events)
        await asyncio.sleep(60)
        (second,) = subject.server.events()
        assert second["metadata"]["name"] != first["metadata"]["name"]


@virtual
async def test_an_answer_that_was_lost_makes_no_second_event(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await ready(subject)
        # The answer comes when the client has given up.
        subject.server.faults.plan(Fault("create", "events", 1, delay=40.0))
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await subject.becomes(subject.server.events)
        await asyncio.sleep(300)
        assert subject.events() == [("DeviceFault", NODE)]


@virtual
async def test_one_that_is_refused_is_dropped_and_the_others_go_on(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        subject.server.add_pod(NODE, "train", namespace="ending")
        subject.holders = {LEFT.uuid: (Holder("ending", "train", "x"),)}
        await ready(subject)
        refusal = Refused(403, "the namespace is being terminated")
        subject.server.faults.plan(Fault("list", "pods", refusal=refusal))
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await subject.becomes(lambda: subject.status.events_dropped)
        assert subject.status.problems[0].startswith("Events: list pods")
        await asyncio.sleep(600)
        assert subject.status.problems
        subject.take(steps.happened(subject.state, [ON_RIGHT], 2.0))
        await subject.becomes(lambda: len(subject.server.events()) == 2)
        await asyncio.sleep(600)
        assert (subject.status.events_sent, subject.status.events_dropped) == (2, 1)
        assert subject.status.problems == ()


@virtual
async def test_the_note_of_a_refusal_ends_when_nothing_follows_it(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON), rights=()) as subject, subject.running():
        subject.server.users.update(user_of())
        await ready(subject)
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await subject.becomes(lambda: subject.status.problems)
        assert "create events" in subject.status.problems[0]
        await subject.becomes(lambda: not subject.status.problems)
        assert subject.status.events_dropped == 1
