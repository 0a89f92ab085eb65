"""All features at once, whatever the API server does: the end is right, and nobody is hurried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from plugin.core import state as steps
from plugin.core.grammars import Taint
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import ResourceStatus
from plugin.sim.apiserver.faults import Fault, How, WatchFault
from plugin.sim.apiserver.refusal import Refused
from tests.unit.builders import gpu, mig_device, mig_gpu, node
from tests.unit.state_steps import ON_FIRST, WELL, running, scanned

from .clock import virtual
from .reported import Reported, reported

TYPE = "MigDevicesHealthy"
OURS = Taint("nvidia.com/gpu-needs-reset", "", "NoSchedule")
STARTING = Taint("nvidia.com/gpu-starting", "", "NoSchedule")
ALL = Settings(
    mig_strategy=MigStrategy.MIXED,
    node_labels=True,
    node_events=True,
    node_condition=TYPE,
    node_taint=OURS,
    startup_taint=STARTING,
)
SPEC = {"taints": [{"key": STARTING.key, "effect": STARTING.effect}]}
OTHER = node(gpu(0, mig_device(0, 4, "3g.20gb")), mig_gpu(1, "1g.5gb"))

Disturb = Callable[[Reported], Awaitable[None]]


def registered(subject: Reported) -> None:
    names = subject.store.snapshot.advertisement.resources
    subject.resources = tuple(ResourceStatus(n, registered=True, stream_since=1.0) for n in names)


async def away(subject: Reported) -> None:
    await subject.server.away()


def fault(planned: Fault) -> Disturb:
    async def plan(subject: Reported) -> None:
        subject.server.disturb_watches(WatchFault.END)
        subject.server.faults.plan(replace(planned))

    return plan


def watch(planned: WatchFault) -> Disturb:
    async def disturb(subject: Reported) -> None:
        subject.server.disturb_watches(planned)
        await asyncio.sleep(0)

    return disturb


DISTURBANCES: dict[str, Disturb] = {
    "away": away,
    **{str(code): fault(Fault(refusal=Refused(code, "no"))) for code in (403, 409, 410, 500, 503)},
    "429": fault(Fault(refusal=Refused(429, "too many", retry_after="5"))),
    "slow": fault(Fault(delay=20.0)),
    "too slow": fault(Fault(delay=60.0)),
    # A body without end is slow to send; the client's own tests have it.
    **{how.value: fault(Fault(how=how)) for how in How if how is not How.ENDLESS},
    **{f"watch {each.value}": watch(each) for each in WatchFault},
}


#: These answers are for good: an Event that was refused is dropped, one that exists already needs
#: no other.
FINAL = {"403", "409", "410"}


def is_right(subject: Reported, case: str) -> bool:
    reasons = {reason for reason, _ in subject.events()}
    return (
        subject.labels().get("nvidia.com/mig-3g.20gb.count") == "1"
        and subject.condition(TYPE).get("status") == "False"
        and subject.taints() == [str(OURS)]
        and (case in FINAL or {"DeviceFault", "GeometryChanged"} <= reasons)
    )


def of_others(subject: Reported) -> list[str]:
    """What does not work: an Event that was refused stays so."""
    return [each for each in subject.status.problems if not each.startswith("Events")]


def changed(subject: Reported) -> None:
    """A fault that needs a reset, and another geometry."""
    subject.take(steps.happened(subject.state, [ON_FIRST], 1.0))
    subject.take(steps.probed(subject.state, [replace(WELL[0], recovery_action=1), WELL[1]], 1.0))
    subject.take(scanned(subject.state, OTHER))
    subject.take(scanned(subject.state, OTHER))
    registered(subject)


@pytest.mark.parametrize("at_start", [True, False], ids=["at the start", "later"])
@pytest.mark.parametrize("case", DISTURBANCES)
@virtual
async def test_the_end_is_right(tmp_path: Path, case: str, *, at_start: bool) -> None:
    disturb = DISTURBANCES[case]
    async with reported(tmp_path, running(ALL), spec=SPEC) as subject:
        if at_start:
            await disturb(subject)
        async with subject.running():
            if not at_start:
                registered(subject)
                await subject.becomes(lambda: not subject.taints() and subject.labels())
                await disturb(subject)
            await asyncio.sleep(0)  # the reporter's start
            changed(subject)
            await asyncio.sleep(600)
            sent = sum(subject.status.requests.values())
            assert sent < 150
            subject.server.faults.clear()
            if not subject.server.is_listening:
                await subject.server.back()
            await subject.becomes(lambda: is_right(subject, case), seconds=400)
            await subject.becomes(lambda: subject.status.away_since is None, seconds=700)
            # A call that was refused again and again comes up to two minutes later.
            await subject.becomes(lambda: not of_others(subject), seconds=130)
            before = sum(subject.status.requests.values())
            await asyncio.sleep(3600)
            assert sum(subject.status.requests.values()) - before < 60


@virtual
async def test_a_quiet_day_costs_less_than_a_request_a_minute(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ALL)) as subject, subject.running():
        registered(subject)
        await subject.becomes(lambda: subject.labels() and subject.condition(TYPE))
        await asyncio.sleep(86_400)
        requests = subject.status.requests
        assert sum(requests.values()) < 24 * 60
        assert {verb for verb, *_ in requests if verb != "watch"} == {"list", "get", "patch"}
        assert sum(count for (verb, *_), count in requests.items() if verb == "patch") == 2
        assert subject.server.events() == []
