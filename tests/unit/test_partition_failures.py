"""Every step fails with every code of NVML, once and lasting: it ends right, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from plugin.core.partition.progress import GpuState, State
from plugin.core.partition.trouble import Code
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.partition_rig import Rig, devices, empty_instances, rig, uuids
from tests.unit.virtual_time import run

NODE = "2xa30-24gb:all-1g.6gb"
BEFORE, AFTER = {"1g.6gb": 4}, {"1g.6gb": 2, "2g.12gb": 1}

#: What each kind of step calls; the switch of MIG mode is below.
FUNCTIONS = {
    "nvmlComputeInstanceDestroy": 1,  # calls of it that succeed first
    "nvmlGpuInstanceDestroy": 1,
    "nvmlDeviceCreateGpuInstanceWithPlacement": 0,
    "nvmlGpuInstanceCreateComputeInstance": 0,
}
#: One for every error that a driver's verb raises: see the contract of partitioning.
CODES = (
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_IN_USE,
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES,
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_UNKNOWN,
)
RESET = pynvml.NVML_ERROR_RESET_REQUIRED
IN_USE = pynvml.NVML_ERROR_IN_USE


def over(folder: Path, story: Callable[[Rig], object], node: SimNode | None = None) -> None:
    async def main() -> None:
        async with rig(node or parse_node(NODE), folder) as here:
            await story(here)  # type: ignore[misc]

    run(main())


def check_lists(here: Rig) -> None:
    """What kubelet may hand out exists, and the one in use has never left its place."""
    there = {uuid for gpu in range(2) for uuid in uuids(here.node, gpu)}
    there |= {gpu.uuid for gpu in here.node.gpus if not gpu.mig}
    listed = here.writer.store.snapshot.advertisement.resources.values()
    assert {item.id for items in listed for item in items if item.healthy} <= there


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("code", CODES)
def test_a_step_fails_once(tmp_path: Path, function: str, code: int) -> None:
    async def story(here: Rig) -> None:
        held = uuids(here.node, 0)[3]
        here.hold("train", held)
        gpu, after = here.node.gpu(0).uuid, FUNCTIONS[function]
        here.node.calls.inject(function, Fail(code), times=1, after=after, target=gpu)
        here.order("all-balanced")
        progress = await here.ended()
        assert devices(here.node)[1] == AFTER
        assert held in uuids(here.node, 0)
        check_lists(here)
        if code == RESET:
            assert progress.state is State.RESET_NEEDED
            assert progress.gpus[0].state is GpuState.RESET_NEEDED
            return
        assert progress.state is State.SUCCESS
        assert devices(here.node) == [AFTER, AFTER]
        assert here.healthy() == {"1g.6gb": 4, "2g.12gb": 2}
        assert here.progress.counts.failures

    over(tmp_path, story)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("code", CODES)
def test_a_step_fails_for_good(tmp_path: Path, function: str, code: int) -> None:
    async def story(here: Rig) -> None:
        held = uuids(here.node, 0)[3]
        here.hold("train", held)
        gpu, after = here.node.gpu(0).uuid, FUNCTIONS[function]
        here.node.calls.inject(function, Fail(code), after=after, target=gpu)
        here.order("all-balanced")
        progress = await here.settled()
        first, second = progress.gpus
        assert (second.state, devices(here.node)[1]) == (GpuState.APPLIED, AFTER)
        assert held in uuids(here.node, 0)
        assert first.trouble is not None
        assert first.trouble.text
        check_lists(here)
        match first.state:
            case GpuState.ROLLED_BACK:
                assert devices(here.node)[0] == BEFORE
                assert here.healthy() == {"1g.6gb": 4 + 2, "2g.12gb": 1}
                assert progress.state is State.FAILED
            case GpuState.FAILED:
                # What was there before serves on, and nothing that was made since.
                assert progress.state is State.FAILED
            case GpuState.WAITING:
                assert (code, first.trouble.code) == (IN_USE, Code.IN_USE)
                assert progress.state is State.WAITING
            case GpuState.RESET_NEEDED:
                assert code == RESET
            case other:
                pytest.fail(f"it ends as {other}")
        # It can be made good: the cause is mended, and the order given again.
        here.node.calls.restore()
        here.order("all-balanced")
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [AFTER, AFTER]
        assert empty_instances(here.node) == 0
        assert here.healthy() == {"1g.6gb": 4, "2g.12gb": 2}
        assert held in uuids(here.node, 0)

    over(tmp_path, story)


# ---- the switch of MIG mode

#: Both ways, where it takes effect at once, and on where it takes a reset.
SWITCHES = {
    "on": ("2xh100-80gb:mig-off", "all-balanced", {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}),
    "off": ("2xh100-80gb:all-1g.10gb", "all-disabled", {}),
    "on, by a reset": ("2xa30-24gb:mig-off", "all-balanced", {"1g.6gb": 2, "2g.12gb": 1}),
}
SWITCH = "nvmlDeviceSetMigMode"


async def reset_where_it_waits(here: Rig) -> None:
    """As an administrator does, for which the daemon has to let go of the driver."""
    await here.ended()
    waiting = [gpu for gpu in here.progress.gpus if gpu.state is GpuState.RESET_NEEDED]
    if not waiting:
        return
    assert await here.writer.release([gpu.uuid for gpu in waiting], 600.0) == ()
    for gpu in waiting:
        here.node.reset(gpu.index)
    assert await here.writer.resume() is None
    while here.progress.ended:
        await here.executor.rounds.wait()


@pytest.mark.parametrize("way", SWITCHES)
@pytest.mark.parametrize("code", CODES)
def test_a_switch_fails_once(tmp_path: Path, way: str, code: int) -> None:
    node, name, after = SWITCHES[way]

    async def story(here: Rig) -> None:
        here.node.calls.inject(SWITCH, Fail(code), times=1, target=here.node.gpu(0).uuid)
        here.order(name)
        await reset_where_it_waits(here)
        await reset_where_it_waits(here)  # the switch that was refused now waits for its own
        await here.ended()
        assert here.progress.state is State.SUCCESS
        assert devices(here.node) == [after, after]
        assert here.progress.counts.failures["switch-mode"] >= 1
        check_lists(here)

    over(tmp_path, story, parse_node(node))


@pytest.mark.parametrize("way", SWITCHES)
@pytest.mark.parametrize("code", CODES)
def test_a_switch_fails_for_good(tmp_path: Path, way: str, code: int) -> None:
    node, name, after = SWITCHES[way]

    async def story(here: Rig) -> None:
        before = devices(here.node)[0]
        here.node.calls.inject(SWITCH, Fail(code), target=here.node.gpu(0).uuid)
        here.order(name)
        await here.settled()
        first = here.progress.gpus[0]
        assert first.trouble is not None
        assert first.trouble.text
        match first.state:
            case GpuState.ROLLED_BACK | GpuState.WAITING:
                assert devices(here.node)[0] == before
            case GpuState.RESET_NEEDED:
                assert code == RESET
            case GpuState.FAILED:
                pass
            case other:
                pytest.fail(f"it ends as {other}")
        # The other GPU is not concerned.
        if way == "on, by a reset":
            assert here.states()[1] is GpuState.RESET_NEEDED
        else:
            assert devices(here.node)[1] == after
        check_lists(here)
        here.node.calls.restore()
        here.order(name)
        await reset_where_it_waits(here)
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [after, after]
        assert empty_instances(here.node) == 0

    over(tmp_path, story, parse_node(node))
