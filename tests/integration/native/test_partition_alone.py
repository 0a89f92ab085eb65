"""``partition apply`` where no daemon answers: with the same checks, and never beside a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.native import build
from tests.native.hardware import attached

from .host import daemon
from .test_partition_kills import NEW, OLD, environment

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(
        build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
    ),
]


def kubelet_of(folder: Path) -> SimKubelet:
    return SimKubelet(folder / "dp", pod_resources_dir=folder / "pods", readmission_s=None, seed=1)


async def partition(variables: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "plugin", "partition", *arguments),
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


def there(node: SimNode) -> set[str]:
    return {slot.ci.uuid for gpu in node.gpus for slot in gpu.devices()}


async def hold(kubelet: SimKubelet, name: str, devices: int) -> set[str]:
    pod = await kubelet.admit(Pod(name, containers={"main": {OLD: devices}}))
    return set(pod.containers["main"].envs["CUDA_VISIBLE_DEVICES"].split(","))


async def test_unknown_is_not_free(tmp_path: Path, library: Path) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = environment(tmp_path, library)
    before = there(node)
    apply = ("apply", "-c", "all-7g.40gb", "--timeout", "1")
    with attached(node, tmp_path):
        async with kubelet_of(tmp_path) as kubelet:
            async with daemon(variables):
                await kubelet.wait_allocatable(OLD, 4)
                held = await hold(kubelet, "train", 1)
            unknown = {**variables, "POD_RESOURCES_SOCKET": str(tmp_path / "nowhere.sock")}
            status, out, errors = await partition(unknown, *apply)
            assert status == 1, out
            assert "GPU 0 waits: an unknown pod" in out
            assert "every device counts as held" in errors
            assert there(node) == before
            evict = {**variables, "PARTITION_IN_USE": "evict", "KUBECONFIG": str(tmp_path / "no")}
            status, out, errors = await partition(evict, *apply)
            assert status == 1
            assert "note: pods cannot be evicted: " in errors
            # Nothing but whole lines, and nothing about who serves devices.
            assert {text.split()[0] for text in errors.splitlines()} == {
                "mig-device-plugin:",
                "note:",
            }
            assert "held by default/train" in out
            assert held < there(node)
            assert len(there(node) - before) == 1


async def test_gpus_are_not_changed_beside_a_daemon_that_cannot_be_asked(
    tmp_path: Path, library: Path
) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = environment(tmp_path, library)
    before = there(node)
    with attached(node, tmp_path):
        async with kubelet_of(tmp_path) as kubelet, daemon(variables):
            await kubelet.wait_allocatable(OLD, 4)
            await hold(kubelet, "train", 1)
            status, _, errors = await partition(variables, "apply", "-c", "all-7g.40gb")
            assert status == 1
            assert errors.startswith("mig-device-plugin: a daemon runs here, which has locked")
    assert there(node) == before


async def test_a_daemon_that_starts_meanwhile_hands_out_nothing_before_the_end(
    tmp_path: Path, library: Path
) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = environment(tmp_path, library)
    loop = asyncio.get_running_loop()
    registered: list[int] = []
    with attached(node, tmp_path) as hardware:
        async with kubelet_of(tmp_path) as kubelet, contextlib.AsyncExitStack() as stack:

            async def start() -> None:
                running = await stack.enter_async_context(daemon(variables))
                await running.logged(
                    "waiting for the end of a partition apply, registering nothing before"
                )

            def allows(verb: str) -> bool:
                del verb
                if not registered:
                    asyncio.run_coroutine_threadsafe(start(), loop).result(20)
                registered.append(len(kubelet.registrations))
                return True

            # So that kubelet has something to tell.
            async with daemon(variables):
                await kubelet.wait_allocatable(OLD, 4)
                await hold(kubelet, "train", 1)
            count = len(kubelet.registrations)
            hardware.allows = allows
            status, out, errors = await partition(
                variables, "apply", "-c", "all-7g.40gb", "--timeout", "4"
            )
            assert status == 1, errors
            assert set(registered) == {count}
            await kubelet.wait_allocatable(NEW, 1)
            # The GPU that the pod holds waits, as the daemon goes on with the order.
            await kubelet.wait_for(
                lambda: set(kubelet.devices(NEW)) | set(kubelet.devices(OLD)) == there(node)
            )
            assert "waits" in out
            assert kubelet.violations == []
