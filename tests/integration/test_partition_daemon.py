"""``partition apply``, ``status`` and ``cancel``, with a daemon and a stand-in kubelet."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from plugin.control.client import ask
from plugin.errors import ControlError
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import StartDaemon
from .prometheus import fetch, free_port
from .waiting import SECONDS, becomes

pytestmark = pytest.mark.asyncio

NODE = "2xa100-40gb:all-1g.5gb"
#: A file of configurations.
MINE = """version: v1
mig-configs:
  mine:
  - devices: [1]
    mig-enabled: true
    mig-devices: {2g.10gb: 1}
"""
ONE, TWO, THREE = (f"nvidia.com/mig-{name}" for name in ("1g.5gb", "2g.10gb", "3g.20gb"))


@pytest_asyncio.fixture
async def kubelet(node_dir: Path) -> AsyncIterator[SimKubelet]:
    async with SimKubelet(
        node_dir / "plugins", pod_resources_dir=node_dir / "pods", readmission_s=None, seed=1
    ) as running:
        yield running
    assert running.violations == []


def environment(node_dir: Path) -> dict[str, str]:
    return {"POD_RESOURCES_SOCKET": str(node_dir / "pods" / "kubelet.sock")}


async def partition(node_dir: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    return await command(node_dir, "partition", *arguments, **variables)


async def command(node_dir: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "plugin", *arguments),
        env={
            **os.environ,
            "CONTROL_SOCKET": str(node_dir / "control" / "control.sock"),
            **variables,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_a_running_daemon_applies_while_pods_run(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    port = free_port()
    variables = {**environment(node_dir), "HTTP_ADDRESS": f"127.0.0.1:{port}"}
    daemon = await start_daemon(NODE, **variables)
    await kubelet.wait_allocatable(ONE, 14)
    socket = node_dir / "control" / "control.sock"
    await becomes(socket.exists)
    assert (await partition(node_dir, "status"))[:2] == (0, "no configuration is wanted\n")
    pod = await kubelet.admit(Pod("train", containers={"main": {ONE: 1}}))
    held = pod.containers["main"].envs["CUDA_VISIBLE_DEVICES"]

    status, out, _ = await partition(node_dir, "apply", "-c", "all-2g.10gb", "--timeout", "2")
    assert status == 1
    assert "held by default/train" in out
    assert out.splitlines()[-1].startswith("all-2g.10gb is not applied in time, and still wanted")
    await kubelet.wait_allocatable(TWO, 3)
    assert set(kubelet.devices(ONE)) >= {held}
    assert not any(device.healthy for device in kubelet.devices(ONE).values())
    status, out, _ = await command(node_dir, "devices")
    assert status == 0
    behind = "\nconfiguration all-2g.10gb: waiting\n  GPU 0  waiting: 3 × 2g.10gb, 0 of 20 steps; "
    assert behind in out
    assert out.endswith(f" ({held}), held by default/train\n")
    _, page = await fetch(f"http://127.0.0.1:{port}/")
    assert "Configuration all-2g.10gb is wanted: waiting" in page
    _, metrics = await fetch(f"http://127.0.0.1:{port}/metrics")
    assert 'partition_gpus{state="waiting"} 1.0' in metrics

    status, out, _ = await partition(node_dir, "apply", "-c", "all-balanced", "--output", "json")
    assert (status, json.loads(out)["state"]) == (0, "success")
    assert held in kubelet.devices(ONE)
    await kubelet.wait_for(lambda: kubelet.node_status().get(THREE) == (2, 2))
    assert kubelet.node_status()[ONE] == (4, 4)

    status, _, errors = await partition(node_dir, "apply", "-c", "all-9g.5gb")
    assert status == 2
    assert "no MIG configuration 'all-9g.5gb' on this node" in errors
    status, out, _ = await partition(node_dir, "status")
    assert (status, out.splitlines()[0].split(":")[0]) == (0, "all-balanced (by command)")
    status, out, _ = await partition(node_dir, "cancel")
    assert (status, out) == (0, "all-balanced is no longer wanted; what is there stays\n")
    assert "error" not in daemon.log


async def test_what_is_wanted_is_there_before_anything_is_registered(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """A reboot loses the instances, here those that the simulated node starts without."""
    variables = environment(node_dir)
    await start_daemon("2xa100-40gb:all-enabled", PARTITION_CONFIG="all-3g.20gb", **variables)
    await kubelet.wait_allocatable(THREE, 4)
    assert {registration.resource for registration in kubelet.registrations} == {THREE}
    assert len([m for m in kubelet.messages if m.devices]) == 1


async def test_an_order_by_a_command_holds_across_restarts(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    file = node_dir / "mine.yaml"
    file.write_text(MINE)
    variables = environment(node_dir)
    first = await start_daemon(NODE, **variables)
    await kubelet.wait_allocatable(ONE, 14)
    await becomes((node_dir / "control" / "control.sock").exists)
    # So that kubelet has something to tell.
    await kubelet.admit(Pod("train", containers={"main": {ONE: 1}}))
    status, out, errors = await partition(node_dir, "apply", "-f", str(file))
    assert (status, out.splitlines()[-1]) == (0, "mine is applied"), errors
    file.unlink()
    assert await first.stop() == 0
    await start_daemon(NODE, **variables)
    await kubelet.wait_allocatable(TWO, 1)
    status, out, _ = await partition(node_dir, "status")
    assert (status, out.splitlines()[0].split(":")[0]) == (0, "mine (by command)")


async def test_a_command_waits_for_the_next_process_of_the_daemon(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    variables = environment(node_dir)
    socket = node_dir / "control" / "control.sock"
    first = await start_daemon("1xa100-40gb:all-3g.20gb", **variables)
    await kubelet.wait_allocatable(THREE, 2)
    await becomes(socket.exists)
    pod = Pod("train", containers={"main": {THREE: 1}})
    await kubelet.admit(pod)
    await asyncio.to_thread(ask, str(socket), "partition", "cancel")
    waiting = asyncio.create_task(partition(node_dir, "apply", "-c", "all-7g.40gb"))

    def state() -> object:
        with contextlib.suppress(ControlError):
            return ask(str(socket), "partition", "status")["state"]
        return None

    await becomes(lambda: state() == "waiting")
    assert await first.stop() == 0
    # Another simulated node, which the order finds as it wants it.
    await start_daemon("1xa100-40gb:all-7g.40gb", **variables)
    status, out, errors = await waiting
    assert (status, out.splitlines()[-1]) == (0, "all-7g.40gb is applied"), errors
    assert "the daemon does not answer" in errors


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (("cancel",), "this order was cancelled"),
        (("apply", "-c", "all-1g.5gb"), "another order has replaced this one"),
    ],
)
async def test_a_command_says_what_has_become_of_its_order(
    node_dir: Path,
    kubelet: SimKubelet,
    start_daemon: StartDaemon,
    then: tuple[str, ...],
    said: str,
) -> None:
    await start_daemon(NODE, **environment(node_dir))
    await kubelet.wait_allocatable(ONE, 14)
    socket = node_dir / "control" / "control.sock"
    await becomes(socket.exists)
    await kubelet.admit(Pod("train", containers={"main": {ONE: 1}}))
    following = asyncio.create_task(partition(node_dir, "apply", "-c", "all-7g.40gb"))
    await becomes(lambda: ask(str(socket), "partition", "status")["state"] == "waiting")
    await partition(node_dir, *then)
    status, _, errors = await following
    assert (status, said in errors) == (1, True), errors


async def test_without_a_daemon_the_command_acts_by_itself(node_dir: Path) -> None:
    status, out, errors = await partition(
        node_dir, "apply", "-c", "all-balanced", "--simulate", NODE, KUBELET_SOCKET=""
    )
    assert (status, out.splitlines()[-1]) == (0, "all-balanced is applied"), errors
    assert "no daemon runs here" in errors
    status, _, errors = await partition(node_dir, "apply", "-c", "nothing", "--simulate", NODE)
    assert status == 2
    assert "no MIG configuration 'nothing'" in errors
    assert (await partition(node_dir, "status"))[0] == 1
    file = node_dir / "mine.yaml"
    file.write_text(MINE)
    status, out, errors = await partition(
        node_dir, "apply", "-c", "mine", "--simulate", NODE, PARTITION_FILE=str(file)
    )
    assert (status, out.splitlines()[-1]) == (0, "mine is applied"), errors


#: Builds the daemon with all its edges, asks what is wanted, and prints what was loaded.
LOADED = """
import asyncio, sys
from pathlib import Path
from plugin.assembly import assemble
from plugin.core.settings import Settings
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate

async def main():
    driver = simulate(parse_node("1xa30-24gb")).driver
    daemon = assemble(Settings(control_socket=""), driver, Path(sys.argv[1]))
    edges = daemon.edges()
    running = asyncio.create_task(edges.partitioning.run())
    await edges.partitioning.started()
    assert edges.overview().partition is None
    running.cancel()

asyncio.run(main())
print([name for name in sys.modules if name.startswith(("plugin.partition.", "plugin.core.p"))])
"""


async def test_nothing_of_it_is_loaded_while_nothing_is_wanted(node_dir: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", LOADED, str(node_dir / "ledger.json")),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    loaded = {"plugin.core.partition", "plugin.core.partition.policy", "plugin.core.preference"}
    assert set(ast.literal_eval(out.decode())) <= loaded
    assert not (node_dir / "partition.json").exists()


async def test_no_pod_loses_its_device_whatever_is_wanted(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """Pods come and go while the configuration changes all the time."""
    await start_daemon("4xa100-40gb:all-1g.5gb", **environment(node_dir))
    await kubelet.wait_allocatable(ONE, 28)
    control = str(node_dir / "control" / "control.sock")
    await becomes(Path(control).exists)
    chance = random.Random(1)  # noqa: S311 — chance, not secrecy
    running: dict[str, tuple[Pod, str]] = {}
    ended = asyncio.Event()
    started = 0

    async def pods() -> None:
        nonlocal started
        while not ended.is_set():
            name = f"p{started}"
            pod = Pod(name, containers={"main": {chance.choice((ONE, TWO, THREE)): 1}})
            result = await kubelet.admit(pod)
            if result.phase == "Running":
                started += 1
                running[name] = pod, result.containers["main"].envs["CUDA_VISIBLE_DEVICES"]
            else:
                await kubelet.delete(pod)
            if len(running) > 6 or (running and chance.random() < 0.3):
                gone = chance.choice(list(running))
                pod, _ = running.pop(gone)
                await kubelet.delete(pod)
            await asyncio.sleep(0.01)

    async def there() -> set[str]:
        status = await asyncio.to_thread(ask, control, "status")
        return {device["uuid"] for gpu in status["gpus"] for device in gpu["migDevices"]}

    busy = asyncio.create_task(pods())
    try:
        for number in range(8):
            name = ("all-balanced", "all-2g.10gb", "all-3g.20gb", "all-1g.5gb")[number % 4]
            await asyncio.to_thread(ask, control, "partition", "apply", name, "", "")
            await asyncio.sleep(0.3)
            held = dict(running)
            seen = await there()
            # Of those that run before and after the look.
            still = {uuid for name, (_, uuid) in held.items() if name in running}
            assert still <= seen
    finally:
        ended.set()
        await busy
    assert started > 10
    for pod, _ in running.values():
        await kubelet.delete(pod)
    status, out, errors = await partition(node_dir, "apply", "-c", "all-balanced")
    assert (status, out.splitlines()[-1]) == (0, "all-balanced is applied"), errors
    await kubelet.wait_for(lambda: kubelet.node_status().get(THREE) == (4, 4))


async def test_mig_mode_that_the_administrator_switches(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    hand = "run nvidia-smi -i 0 -mig 1, then nvidia-smi -i 0 --gpu-reset, or reboot the node"
    off = {"PARTITION_MIG_MODE": "false"}
    off_node = ["--simulate", "2xa100-40gb:1=1g.5gb*7"]
    status, out, _ = await partition(node_dir, "plan", "-c", "all-2g.10gb", *off_node, **off)
    assert status == 0
    assert "GPU 0: MIG mode on is wanted, and --partition-mig-mode is false: while" in out
    assert hand in out
    json_plan = ["plan", "-c", "all-2g.10gb", "--output", "json", *off_node]
    _, out, _ = await partition(node_dir, *json_plan, **off)
    gpus = json.loads(out)["gpus"]
    assert [gpu["action"] for gpu in gpus] == ["reset", "change"]
    assert hand in gpus[0]["reason"]["text"]
    assert gpus[0]["steps"] == []
    # Without a daemon, too.
    alone = await partition(
        node_dir, "apply", "-c", "all-2g.10gb", *off_node, KUBELET_SOCKET="", **off
    )
    assert alone[0] == 1
    assert hand in alone[1].splitlines()[-1]

    variables = {**environment(node_dir), **off}
    daemon = await start_daemon(off_node[1], **variables)
    await kubelet.wait_allocatable(ONE, 7)
    socket = node_dir / "control" / "control.sock"
    await becomes(socket.exists)
    # So that kubelet has something to tell.
    await kubelet.admit(Pod("train", containers={"main": {ONE: 1}}))
    status, out, _ = await partition(node_dir, "apply", "-c", "all-balanced", "--output", "json")
    found = json.loads(out)
    assert (status, found["state"]) == (1, "reset-needed")
    assert [gpu["state"] for gpu in found["gpus"]] == ["reset-needed", "applied"]
    assert hand in found["gpus"][0]["reason"]["text"]
    assert kubelet.node_status().get("nvidia.com/gpu", (0, 0))[1] == 0
    await asyncio.to_thread(ask, str(socket), "sim", "repartition", "0=1g.5gb*7")
    await kubelet.wait_for(lambda: kubelet.node_status().get(THREE) == (2, 2))
    status, out, _ = await partition(node_dir, "status")
    assert (status, out.splitlines()[0].split(" for ")[0]) == (
        0,
        "all-balanced (by command): success",
    )
    assert '"error"' not in daemon.log
