"""``partition apply`` where no daemon answers: with the same checks, and never beside a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.native import build
from tests.native.hardware import Hardware, attached

from .host import daemon
from .test_partition_kills import NEW, OLD, STEPS, environment

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


@pytest.mark.parametrize(
    ("signals", "status", "said"),
    [
        ((), 1, "is not applied in time, and still wanted: GPU 1 is not as wanted"),
        ((signal.SIGINT,), 130, "is not applied because of SIGINT, and still wanted"),
        ((signal.SIGHUP,), 129, "is not applied because of SIGHUP, and still wanted"),
        ((signal.SIGTERM,), 143, "is not applied because of SIGTERM, and still wanted"),
    ],
)
@pytest.mark.parametrize("step", [1, 3, STEPS])
async def test_the_gpu_in_hand_is_finished_and_no_other_is_begun(
    tmp_path: Path,
    library: Path,
    signals: tuple[signal.Signals, ...],
    status: int,
    said: str,
    step: int,
) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = {**environment(tmp_path, library), "KUBELET_SOCKET": ""}
    limit = () if signals else ("--timeout", "0.5")
    second = there_on(node, 1)
    with attached(node, tmp_path) as hardware:
        process, going_on = await _cut(variables, hardware, step, *limit)
        for number in signals:
            process.send_signal(number)
        # What comes next is on standard error, before the call in hand has returned.
        assert process.stderr is not None
        async with asyncio.timeout(20):
            await process.stderr.readuntil(b"GPU 0 is finished first")
        going_on.set()
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
        assert (process.returncode, said in out.decode()) == (status, True), out
        assert geometry(node) == [["7g.40gb"], ["3g.20gb", "3g.20gb"]]
        assert there_on(node, 1) == second
        assert memory_of(variables)["changing"] == {}
        # The order stays for whoever comes next.
        async with daemon(variables) as running:
            await running.logged("configuration applied")
        assert geometry(node) == [["7g.40gb"], ["7g.40gb"]]


async def test_a_second_signal_ends_the_command_at_once(tmp_path: Path, library: Path) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = {**environment(tmp_path, library), "KUBELET_SOCKET": ""}
    with attached(node, tmp_path) as hardware:
        process, going_on = await _cut(variables, hardware, 1)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        async with asyncio.timeout(20):
            await process.stderr.readuntil(b"GPU 0 is finished first")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == -signal.SIGTERM
        going_on.set()
        # Whoever comes next knows that it may be half-made.
        assert node.gpus[0].uuid in memory_of(variables)["changing"]


async def _cut(
    variables: dict[str, str], hardware: Hardware, step: int, *arguments: str
) -> tuple[asyncio.subprocess.Process, threading.Event]:
    """A command within a step, which goes on with the event."""
    within, going_on, count = asyncio.Event(), threading.Event(), itertools.count(1)
    loop = asyncio.get_running_loop()

    def allows(verb: str) -> bool:
        del verb
        if next(count) == step:
            loop.call_soon_threadsafe(within.set)
            going_on.wait(20)
        return True

    hardware.allows = allows
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "plugin", "partition"),
        *("apply", "-c", "all-7g.40gb", *arguments),
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        await within.wait()
    return process, going_on


def geometry(node: SimNode) -> list[list[str]]:
    """GPU instances with a compute instance, and no others."""
    assert all(each.compute for gpu in node.gpus for each in gpu.instances)
    return [[each.profile.name for each in gpu.instances] for gpu in node.gpus]


def there_on(node: SimNode, gpu: int) -> list[str]:
    return [slot.ci.uuid for slot in node.gpu(gpu).devices()]


def memory_of(variables: dict[str, str]) -> dict[str, Any]:
    found = json.loads(Path(variables["LEDGER_FILE"]).with_name(MEMORY).read_text())
    assert isinstance(found, dict)
    return found


async def test_a_gpu_that_stays_half_made_is_named(tmp_path: Path, library: Path) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = {**environment(tmp_path, library), "KUBELET_SOCKET": ""}
    with attached(node, tmp_path) as hardware:
        hardware.allows = lambda verb: not verb.startswith("create")
        status, _, errors = await partition(
            variables, "apply", "-c", "all-7g.40gb", "--timeout", "1"
        )
        assert status == 1
        named = "GPU 0, 1 may be half-made: the next daemon or partition apply mends it"
        assert errors.splitlines()[-1] == f"mig-device-plugin: {named}"
        hardware.allows = lambda _: True
        status, _, errors = await partition(variables, "apply", "-c", "all-7g.40gb")
        assert (status, "half-made" in errors) == (0, False)
        assert geometry(node) == [["7g.40gb"]] * 2
