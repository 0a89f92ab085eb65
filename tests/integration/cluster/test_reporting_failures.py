"""What fails again and again is told for as long as it does, and holds up nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from plugin.core import operators
from plugin.core import state as steps
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import Holder
from plugin.reporting.evictions import PodEvictor
from plugin.sim.apiserver.faults import Fault, How
from plugin.sim.apiserver.refusal import Refused
from tests.unit.state_steps import LEFT, ON_LEFT, RIGHT, running

from .clock import virtual
from .reported import Reported, reported
from .subject import NODE
from .test_reporting_outages import ALL, SPEC, TYPE, changed, is_right, registered

EVENTS = Settings(mig_strategy=MigStrategy.MIXED, node_events=True)


def told(subject: Reported, beginning: str) -> bool:
    return any(each.startswith(beginning) for each in subject.status.problems)


FAILURES: dict[str, tuple[Fault, str]] = {
    **{
        f"{verb} {resource}, {code}": (Fault(verb, resource, refusal=Refused(code, "no")), told_as)
        for code in (401, 409, 429, 500, 503)
        for verb, resource, told_as in (
            ("patch", "nodes", "node labels: patch nodes"),
            ("patch", "nodes/status", "the node condition: patch nodes/status"),
            ("watch", "nodes", "the Node cannot be followed: watch nodes"),
        )
        # Tried again by listing anew, and once in two minutes at most.
        if (verb, code) != ("watch", 409)
    },
    "patch nodes, without an answer": (Fault("patch", "nodes", how=How.CLOSED), "node labels: "),
}


@pytest.mark.parametrize("case", FAILURES)
@virtual
async def test_a_request_that_fails_while_others_do_not_is_told_until_it_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    fault, beginning = FAILURES[case]
    async with reported(tmp_path, running(ALL), spec=SPEC) as subject:
        subject.server.faults.plan(replace(fault))
        async with subject.running():
            registered(subject)
            await asyncio.sleep(0)
            changed(subject)
            await subject.becomes(lambda: told(subject, beginning), seconds=1800)
            for _ in range(60):
                await asyncio.sleep(60)
                assert told(subject, beginning)
            lines = [each for each in caplog.messages if each == "API server refused a request"]
            assert 1 <= len(lines) <= 3
            subject.server.faults.clear()
            await subject.becomes(lambda: is_right(subject, case), seconds=400)
            await subject.becomes(lambda: not subject.status.problems, seconds=700)


REFUSALS = {"403": Refused(403, "is being terminated"), "500": Refused(500, "failed webhook")}


@pytest.mark.parametrize("case", REFUSALS)
@virtual
async def test_a_namespace_that_takes_no_events_holds_up_no_other(
    tmp_path: Path, case: str
) -> None:
    async with reported(tmp_path, running(EVENTS)) as subject, subject.running():
        await subject.becomes(lambda: subject.server.journal.of("watch"))
        refusal = REFUSALS[case]
        subject.server.faults.plan(Fault("create", "events", refusal=refusal, namespace="ending"))
        subject.server.add_pod(NODE, "bad", namespace="ending")
        subject.server.add_pod(NODE, "good")
        subject.holders = {
            LEFT.uuid: (Holder("ending", "bad", "x"),),
            RIGHT.uuid: (Holder("default", "good", "x"),),
        }
        for second in range(3):  # three pods' worth of Events in the bad one
            subject.take(operators.cordoned(subject.state, LEFT.uuid, float(second)))
            await asyncio.sleep(10)
            subject.take(operators.uncordoned(subject.state, LEFT.uuid))
            await asyncio.sleep(10)
        await asyncio.sleep(120)
        subject.take(operators.cordoned(subject.state, RIGHT.uuid, 9.0))
        expected = {("DeviceCordoned", NODE), ("DeviceCordoned", "good")}
        await subject.becomes(lambda: expected <= set(subject.events()), seconds=5)
        assert told(subject, "Events: create events") or case == "403"
        subject.server.faults.clear()
        if case == "500":  # what waits is sent: how things stand at last
            await subject.becomes(lambda: ("DeviceUncordoned", "bad") in subject.events(), 300)
            assert ("DeviceCordoned", "bad") not in subject.events()
            await subject.becomes(lambda: not subject.status.problems, 300)


# ---- mistakes of ours


class Broken(dict[str, Any]):
    """Holders that nobody can read."""

    def items(self) -> NoReturn:
        raise RuntimeError("a mistake")


@virtual
async def test_a_mistake_in_one_feature_ends_neither_the_others_nor_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reported(tmp_path, running(ALL), spec=SPEC) as subject, subject.running():
        registered(subject)
        await subject.becomes(lambda: subject.labels() and subject.condition(TYPE))
        subject.holders = Broken()
        subject.take(steps.happened(subject.state, [ON_LEFT], 0.5))
        await asyncio.sleep(1)
        changed(subject)
        await subject.becomes(lambda: is_right(subject, "403"), seconds=60)  # but for its Events
        (problem,) = subject.status.problems
        assert problem.startswith("Events: ")
        assert "a mistake of the plugin's" in problem
        (record,) = [each for each in caplog.records if each.exc_info]
        assert record.message == "a mistake of the plugin's keeps it from the cluster"
        subject.holders = {}
        await asyncio.sleep(180)
        subject.take(steps.happened(subject.state, [ON_LEFT], 200.0))
        await subject.becomes(subject.events, seconds=60)
        assert subject.status.problems == ()


@virtual
async def test_a_mistake_before_any_feature_runs_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reported(tmp_path, running(EVENTS)) as subject:
        wrong: Any = 7
        snapshot = subject.store.snapshot
        subject.store.publish(
            replace(
                snapshot,
                generation=snapshot.generation + 1,
                settings=dataclasses.replace(snapshot.settings, node_name=wrong),
            )
        )
        async with subject.running():
            for _ in range(5):  # the clock may jump while a thread works
                await asyncio.sleep(60)
                await subject.becomes(lambda: subject.status.problems)
            (problem,) = subject.status.problems
            assert problem.startswith("all that is written to the cluster or read there: ")
            assert len([each for each in caplog.records if each.exc_info]) == 1
            subject.store.publish(replace(snapshot, generation=snapshot.generation + 2))
            await subject.becomes(lambda: subject.status.requests)
            await subject.becomes(lambda: not subject.status.problems)


@virtual
async def test_a_mistake_in_what_others_note_does_not_reach_them(tmp_path: Path) -> None:
    async with reported(tmp_path, running(EVENTS)) as subject, subject.running():
        await subject.becomes(lambda: subject.status.requests)
        wrong: Any = [None]
        assert subject.reporter is not None
        subject.reporter.note(wrong)
        (problem,) = subject.status.problems
        assert "a mistake of the plugin's" in problem


@virtual
async def test_a_mistake_in_an_eviction_does_not_reach_whoever_partitions() -> None:
    class Wrong:
        async def find_pod(self, *_: str) -> NoReturn:
            raise TypeError("a mistake")

    cluster: Any = Wrong()
    evictor = PodEvictor(EVENTS, lambda: cluster)
    assert "a mistake of the plugin's" in await evictor.evict(["default/train"])
