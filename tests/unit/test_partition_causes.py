"""What the cluster is told of partitioning, and about whom."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.notices import MOST_BYTES, Kind, Notice
from plugin.core.partition.causes import causes, evicted, unknown
from plugin.core.partition.order import Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import (
    IDLE,
    Counts,
    GpuProgress,
    GpuState,
    Progress,
    State,
)
from plugin.core.partition.steps import Blocker, Occupant
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.series import Outbox, noted
from plugin.partition.surroundings import Evictor
from plugin.reporting.partition_events import follow
from plugin.sim.hardware.calls import Fail
from tests.partition_rig import Rig, rig, uuids
from tests.unit.virtual_time import run

ROOT = Path(__file__).resolve().parents[2]
NODE = "2xa100-40gb:all-1g.5gb"
STARTED, SUCCEEDED = "PartitioningStarted", "PartitioningSucceeded"
WAITING, FAILED = "PartitioningWaiting", "PartitioningFailed"
BACK, RESET = "PartitioningRolledBack", "PartitioningNeedsReset"


class Told(list[Notice]):
    """Notices as they are found while a story is told."""

    def brief(self) -> list[tuple[str, str]]:
        """Reasons with about whom; the same twice counts once."""
        found = [(each.reason, each.pod.name if each.pod else "node") for each in self]
        return list(dict.fromkeys(found))

    def of(self, reason: str) -> list[str]:
        return [each.message for each in self if each.reason == reason]


class Following:
    """As the room is: what :class:`plugin.reporting.partitioning.Partitioned` asks for."""

    def __init__(self, here: Rig) -> None:
        self._here = here

    def progress(self) -> Progress:
        return self._here.progress

    async def progressed(self, seen: Progress | None) -> None:
        while self._here.progress == seen:
            await self._here.executor.shown.changed.wait()

    async def labelled(self, name: str) -> Trouble | None:
        raise NotImplementedError


Story = Callable[[Rig, Told], Awaitable[None]]


def over(node: str, folder: Path, story: Story, evictor: Evictor | None = None) -> None:
    async def main() -> None:
        told = Told()
        async with rig(node, folder, evictor=evictor) as here:
            following = asyncio.create_task(follow(Following(here), told.extend))
            await story(here, told)
            await asyncio.sleep(0.1)
            following.cancel()

    run(main())


def test_a_node_is_partitioned(tmp_path: Path) -> None:
    async def story(here: Rig, told: Told) -> None:
        here.order("all-balanced")
        await here.ended()
        await asyncio.sleep(1)
        assert told.brief() == [(STARTED, "node"), (SUCCEEDED, "node")]
        assert len(told) == 2
        assert told.of(STARTED) == [
            "all-balanced, wanted by a command, is being applied to GPU 0, 1"
        ]
        told.clear()
        # Nothing is to be done, and it was asked for.
        here.order("all-balanced")
        await here.ended()
        await asyncio.sleep(1)
        assert told.of(SUCCEEDED) == ["all-balanced is applied to GPU 0, 1"]
        assert len(told) == 1
        # Nor is it news after the driver was released for a while.
        told.clear()
        assert await here.writer.release([here.node.gpu(0).uuid], 600.0) == ()
        await asyncio.sleep(10)
        assert here.states() == [GpuState.APPLIED] * 2
        assert not here.progress.ended
        assert await here.writer.resume() is None
        await here.ended()
        assert here.progress.state is State.SUCCESS
        assert told == []

    over(NODE, tmp_path, story)


def test_what_was_applied_before_the_start_is_no_news() -> None:
    gpu = GpuProgress("GPU-0", 0, GpuState.APPLIED)
    done = Progress(State.SUCCESS, "a", Source.LABEL, order=1, gpus=(gpu,))
    assert causes(IDLE, done) == ()
    # But what was done since, before anybody looked, is.
    changed = replace(done, counts=Counts(steps={"switch-mode": 1}))
    assert [each.reason for each in causes(IDLE, changed)] == [SUCCEEDED]


@pytest.mark.parametrize(
    ("policy", "told_of"),
    [
        (
            Policy.WAIT,
            [(WAITING, "node"), (WAITING, "train"), (STARTED, "node"), (SUCCEEDED, "node")],
        ),
        (
            Policy.EVICT,
            [(WAITING, "node"), (WAITING, "train"), (STARTED, "node"), (SUCCEEDED, "node")],
        ),
        (Policy.REFUSE, [(FAILED, "node")]),
        (
            Policy.FORCE,
            [
                (STARTED, "node"),
                ("DestroyedByPartitioning", "node"),
                ("DestroyedByPartitioning", "train"),
                (SUCCEEDED, "node"),
            ],
        ),
    ],
)
def test_a_device_in_use(tmp_path: Path, policy: Policy, told_of: list[tuple[str, str]]) -> None:
    async def story(here: Rig, told: Told) -> None:
        held = uuids(here.node, 1)[2]
        here.hold("train", held)
        here.order("all-2g.10gb", policy)
        await here.settled()
        await asyncio.sleep(120)
        here.held.clear()
        if policy is not Policy.REFUSE:
            await here.ended()
        await asyncio.sleep(1)
        assert told.brief() == told_of
        # Waiting on is no news.
        assert len(told) <= len(told_of) + 1
        about = [each.message for each in told if each.pod is not None]
        assert all(f"MIG device 1:2 ({held})" in each for each in about)
        # The second start is another cause, told at once: nothing is left out.
        box = noted(Outbox(), told, 1.0)
        assert all(each.count == 1 for each in box.series.values())
        if policy is Policy.WAIT:
            assert told.of(WAITING)[0] == (
                f"all-2g.10gb waits: GPU 1 waits for 1:2 ({held}), held by ml/train"
            )
            assert told.of(STARTED)[1] == (
                "all-2g.10gb, wanted by a command, is being applied to GPU 1"
            )

    over(NODE, tmp_path, story)


def test_another_pod_in_the_way_is_news_and_another_process_is_not() -> None:
    def waiting(*holders: Occupant) -> Progress:
        blocker = Blocker("MIG-1", "0:1", holders)
        why = Trouble(Code.IN_USE, f"GPU 0 waits for {blocker}")
        gpu = GpuProgress("GPU-0", 0, GpuState.WAITING, None, why, (blocker,))
        return Progress(State.WAITING, "a", Source.LABEL, order=1, gpus=(gpu,), trouble=why)

    one, two = Occupant("ml/one", pod=True), Occupant("ml/two", pod=True)
    first, other = waiting(Occupant("process 1")), waiting(Occupant("process 2"))
    assert [each.pod for each in causes(IDLE, first)] == [None]
    assert causes(first, other) == ()
    names = [each.pod.name if each.pod else "node" for each in causes(other, waiting(one))]
    assert names == ["node", "one"]
    names = [
        each.pod.name if each.pod else "node" for each in causes(waiting(one), waiting(one, two))
    ]
    assert names == ["node", "two"]
    assert causes(waiting(one, two), waiting(two)) == ()


@pytest.mark.parametrize(
    ("code", "told_of"),
    [
        (pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, [STARTED, BACK]),
        (pynvml.NVML_ERROR_RESET_REQUIRED, [STARTED, RESET]),
        (pynvml.NVML_ERROR_IN_USE, [STARTED, BACK, WAITING]),
    ],
)
def test_a_gpu_that_fails(tmp_path: Path, code: int, told_of: list[str]) -> None:
    async def story(here: Rig, told: Told) -> None:
        function = "nvmlDeviceCreateGpuInstanceWithPlacement"
        # Three attempts, and the way back works.
        here.node.calls.inject(function, Fail(code), target=here.node.gpu(1).uuid, times=3)
        here.order("all-balanced")
        await here.settled()
        await asyncio.sleep(1)
        assert {reason for reason, _ in told.brief()} == set(told_of)

    over(NODE, tmp_path, story)


def test_a_configuration_that_no_gpu_can_have_is_told_once(tmp_path: Path) -> None:
    async def story(here: Rig, told: Told) -> None:
        here.order("all-9g")
        await here.settled()
        await asyncio.sleep(600)
        (only,) = told
        assert (only.reason, only.kind) == ("UnknownMigConfiguration", Kind.WARNING)
        assert "all-balanced" in only.message

    over(NODE, tmp_path, story)


def test_the_choices_are_cut_to_what_an_event_allows() -> None:
    choices = ", ".join(f"all-{number}g.5gb" for number in range(500))
    found = unknown("alll", Trouble(Code.UNKNOWN_CONFIGURATION, f"choose {choices}"))
    assert len(found.message.encode()) <= MOST_BYTES
    assert found.message.startswith("alll is not applied: choose all-0g.5gb")


def test_an_evicted_pod() -> None:
    found = evicted("ml/train")
    assert (found.pod, found.kind) == (("ml", "train"), Kind.WARNING)


# ---- whatever the values

troubles = st.builds(Trouble, st.sampled_from(Code), st.sampled_from(["why", "ö" * 1500]))
occupants = st.builds(Occupant, st.sampled_from(["ml/a", "ml/b", "process 1"]), st.booleans())
blockers = st.builds(
    Blocker,
    st.sampled_from(["MIG-1", "MIG-2"]),
    st.sampled_from(["0:1", "1"]),
    st.lists(occupants, max_size=3).map(tuple),
)
gpus = st.builds(
    GpuProgress,
    st.sampled_from(["GPU-0", "GPU-1"]),
    st.integers(0, 7),
    st.sampled_from(GpuState),
    st.none(),
    st.none() | troubles,
    st.lists(blockers, max_size=3).map(tuple),
)
progresses = st.builds(
    Progress,
    state=st.sampled_from(State),
    configuration=st.sampled_from(["a", "b" * 300]),
    source=st.none() | st.sampled_from(Source),
    policy=st.sampled_from(Policy),
    order=st.integers(0, 2),
    gpus=st.lists(gpus, max_size=3, unique_by=lambda gpu: gpu.uuid).map(tuple),
    trouble=st.none() | troubles,
)


@given(progresses, progresses)
def test_any_two_values(old: Progress, new: Progress) -> None:
    """Each notice is an Event that the API takes; without a change there is none; those of one
    change do not take each other's place.
    """
    found = causes(old, new)
    assert causes(new, new) == ()
    for each in found:
        assert len(each.message.encode()) <= MOST_BYTES
        assert re.fullmatch(r"([A-Z][a-z]+)+", each.reason)
        assert len(each.action) <= 128
    box = noted(Outbox(), found, 1.0)
    assert {key for key, one in box.series.items() if one.waits} == {
        (each.pod, each.cause) for each in found
    }


# ---- documents

CAMEL = re.compile(r"(?:[A-Z][a-z]+){2,}")
#: What a notice says that is done.
ACTIONS = {
    *("TakeOutOfService", "PutInService", "HoldDown", "ApplyConfiguration", "KeepConfiguration"),
}


def test_every_reason_of_an_event_is_documented() -> None:
    found = {
        node.value
        for name in ("notices.py", "partition/causes.py")
        for node in ast.walk(ast.parse((ROOT / "plugin/core" / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if CAMEL.fullmatch(node.value)
    }
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    table = text.partition("| reason | type |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == found - ACTIONS
