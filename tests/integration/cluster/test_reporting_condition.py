"""The node's condition and its taints."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from plugin.core import state as steps
from plugin.core.configuration import Configuration
from plugin.core.grammars import Taint
from plugin.core.settings import MigStrategy, Settings
from plugin.core.taints import RECORD
from plugin.core.view import ResourceStatus
from plugin.sim.apiserver.faults import Fault
from plugin.sim.apiserver.refusal import Refused
from tests.unit.state_steps import ON_FIRST, ON_LEFT, ON_RIGHT, WELL, running

from .clock import virtual
from .reported import Reported, configured, reported
from .subject import NODE

TYPE = "MigDevicesHealthy"
OURS = Taint("nvidia.com/gpu-needs-reset", "", "NoSchedule")
STARTING = Taint("nvidia.com/gpu-starting", "", "NoSchedule")
CONDITION = Settings(mig_strategy=MigStrategy.MIXED, node_condition=TYPE)
TAINT = Settings(mig_strategy=MigStrategy.MIXED, node_taint=OURS)
STARTUP = Settings(mig_strategy=MigStrategy.MIXED, startup_taint=STARTING)
FOREIGN = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}
STARTING_ENTRY = {"key": STARTING.key, "effect": STARTING.effect}


def status(subject: Reported) -> str:
    return subject.condition(TYPE).get("status", "")


def writes(subject: Reported, resource: str) -> int:
    return len(subject.server.journal.of("patch", resource))


@virtual
async def test_it_is_written_when_it_changes_and_unknown_at_the_end(tmp_path: Path) -> None:
    async with reported(tmp_path, running(CONDITION)) as subject:
        async with subject.running():
            await subject.becomes(lambda: status(subject) == "True")
            await asyncio.sleep(3600)
            assert writes(subject, "nodes/status") == 1
            subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
            await subject.becomes(lambda: status(subject) == "False", seconds=1)
            assert subject.condition(TYPE)["reason"] == "DevicesUnhealthy"
        assert status(subject) == "Unknown"
        assert subject.condition(TYPE)["reason"] == "PluginStopped"
        assert subject.condition("Ready")["status"] == "True"
        async with subject.running():
            await subject.becomes(lambda: status(subject) == "False")


@virtual
async def test_another_message_waits_and_changes_no_transition(tmp_path: Path) -> None:
    async with reported(tmp_path, running(CONDITION)) as subject, subject.running():
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await subject.becomes(lambda: status(subject) == "False")
        before = subject.condition(TYPE)
        subject.take(steps.happened(subject.state, [ON_RIGHT], 1.0))
        await asyncio.sleep(20)
        assert subject.condition(TYPE) == before
        await asyncio.sleep(20)
        after = subject.condition(TYPE)
        assert after["message"] != before["message"]
        assert after["lastTransitionTime"] == before["lastTransitionTime"]


@virtual
async def test_after_a_crash_the_transition_is_the_former_one(tmp_path: Path) -> None:
    async with reported(tmp_path, running(CONDITION)) as subject:
        then = "2026-01-01T00:00:00Z"
        text = {"reason": "DevicesHealthy", "message": "all 9 devices are healthy"}
        times = {"lastHeartbeatTime": then, "lastTransitionTime": then}
        left = {"type": TYPE, "status": "True", **text, **times}
        subject.server.change("nodes", NODE, {"status": {"conditions": [left]}})
        async with subject.running():
            await subject.becomes(lambda: "3" in subject.condition(TYPE)["message"])
            assert subject.condition(TYPE)["lastTransitionTime"] == then
            assert subject.condition(TYPE)["lastHeartbeatTime"] != then


@virtual
async def test_a_refused_configuration_is_no_transition(tmp_path: Path) -> None:
    async with reported(tmp_path, running(CONDITION)) as subject, subject.running():
        await subject.becomes(lambda: status(subject) == "True")
        before = subject.condition(TYPE)
        refused = Configuration(problem="flags.migStrategy: 'x' is not valid")
        subject.take(steps.configuration_noted(subject.state, refused))
        await subject.becomes(lambda: subject.condition(TYPE)["reason"] == "ConfigurationRefused")
        after = subject.condition(TYPE)
        assert "flags.migStrategy: 'x' is not valid" in after["message"]
        assert after["status"] == "True"
        assert after["lastTransitionTime"] == before["lastTransitionTime"]
        subject.take(steps.configuration_noted(subject.state, Configuration()))
        await subject.becomes(lambda: subject.condition(TYPE)["message"] == before["message"])


@virtual
async def test_of_a_former_configuration_it_is_removed(tmp_path: Path) -> None:
    async with reported(tmp_path, running(CONDITION)) as subject:
        async with subject.running():
            await subject.becomes(lambda: status(subject))
        configured(subject, node_condition="Other")
        async with subject.running():
            await subject.becomes(lambda: subject.condition("Other") and not status(subject))
        configured(subject, node_condition="")
        async with subject.running():
            await subject.becomes(lambda: not subject.condition("Other"))
        assert not (tmp_path / "cluster-features").exists()


@virtual
async def test_an_end_without_the_api_server_is_not_waited_for(tmp_path: Path) -> None:
    async with reported(tmp_path, running(CONDITION)) as subject:
        async with subject.running():
            await subject.becomes(lambda: status(subject))
            subject.server.faults.plan(Fault(delay=60.0))
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 0.3


# ---- taints


@virtual
async def test_the_taint_comes_with_the_need_and_goes_with_it(tmp_path: Path) -> None:
    spec = {"taints": [FOREIGN]}
    async with reported(tmp_path, running(TAINT), spec=spec) as subject, subject.running():
        await asyncio.sleep(60)
        assert (writes(subject, "nodes"), len(subject.server.journal.of("get"))) == (0, 0)
        subject.take(steps.happened(subject.state, [ON_FIRST], 1.0))
        asking = [replace(WELL[0], recovery_action=1), WELL[1]]
        subject.take(steps.probed(subject.state, asking, 1.0))
        await subject.becomes(lambda: len(subject.taints()) == 2, seconds=5)
        assert subject.annotations()[RECORD] == str(OURS)
        # Somebody removes it, and it is still needed.
        subject.server.change("nodes", NODE, {"spec": {"taints": [FOREIGN]}})
        await subject.becomes(lambda: len(subject.taints()) == 2, seconds=400)
        subject.take(steps.probed(subject.state, WELL, 2.0))
        await subject.becomes(lambda: len(subject.taints()) == 1)
        assert subject.taints() == ["dedicated:NoSchedule"]
        assert RECORD not in subject.annotations()


@virtual
async def test_the_same_taint_of_somebody_else_stays(tmp_path: Path) -> None:
    spec = {"taints": [{"key": OURS.key, "effect": OURS.effect}]}
    state = steps.happened(running(TAINT), [ON_FIRST], 1.0).state
    state = steps.probed(state, [replace(WELL[0], recovery_action=1), WELL[1]], 1.0).state
    async with reported(tmp_path, state, spec=spec) as subject, subject.running():
        await asyncio.sleep(60)
        subject.take(steps.probed(subject.state, WELL, 2.0))
        await asyncio.sleep(600)
        assert subject.taints() == [str(OURS)]


@virtual
async def test_switched_off_ours_goes(tmp_path: Path) -> None:
    state = steps.happened(running(TAINT), [ON_FIRST], 1.0).state
    state = steps.probed(state, [replace(WELL[0], recovery_action=1), WELL[1]], 1.0).state
    async with reported(tmp_path, state, spec={"taints": [FOREIGN]}) as subject:
        async with subject.running():
            await subject.becomes(lambda: len(subject.taints()) == 2)
        configured(subject, node_taint=None)
        async with subject.running():
            await subject.becomes(lambda: not (tmp_path / "cluster-features").exists())
        assert subject.taints() == ["dedicated:NoSchedule"]


@virtual
async def test_the_startup_taint_goes_once_kubelet_has_every_resource(tmp_path: Path) -> None:
    spec = {"taints": [FOREIGN, STARTING_ENTRY]}
    async with reported(tmp_path, running(STARTUP), spec=spec) as subject, subject.running():
        await asyncio.sleep(60)
        assert len(subject.taints()) == 2
        # Another writer comes between our look and our write.
        subject.server.faults.plan(Fault("patch", "nodes", 1, refusal=Refused(409, "changed")))
        resources = subject.store.snapshot.advertisement.resources
        subject.resources = tuple(
            ResourceStatus(name, registered=True, stream_since=1.0) for name in resources
        )
        await subject.becomes(lambda: len(subject.taints()) == 1, seconds=10)
        assert subject.taints() == ["dedicated:NoSchedule"]
        # Whoever sets it again has a reason: it was for the start.
        subject.server.change("nodes", NODE, {"spec": {"taints": [STARTING_ENTRY]}})
        await asyncio.sleep(600)
        assert subject.taints() == [str(STARTING)]
        assert RECORD not in subject.annotations()
