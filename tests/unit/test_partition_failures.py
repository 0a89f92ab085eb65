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

#: What each kind of step calls, but for the switch of MIG mode.
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
