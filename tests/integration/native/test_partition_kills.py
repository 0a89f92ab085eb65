"""SIGKILL of the real daemon, before and after every step of an execution."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from plugin.partitioning import MEMORY
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.native import build
from tests.native.hardware import Hardware, attached

from .host import Daemon, daemon

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(
        build.compiler() is None, reason="there is no C compiler (cc or gcc) on PATH"
    ),
]

OLD, NEW = "nvidia.com/mig-3g.20gb", "nvidia.com/mig-7g.40gb"
#: Destroy two compute and two GPU instances, create one of each.
STEPS = 6


def environment(folder: Path, library: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": str(library.parent),
        build.NODE_VARIABLE: str(folder / "node.txt"),
        "MIG_STRATEGY": "mixed",
        "CONTROL_SOCKET": "",
        "HTTP_ADDRESS": "",
        "KUBELET_SOCKET": str(folder / "dp" / "kubelet.sock"),
        "POD_RESOURCES_SOCKET": str(folder / "pods" / "kubelet.sock"),
        "LEDGER_FILE": str(folder / "state" / "ledger.json"),
        "PROC_ROOT": str(folder / "proc"),
        "SYS_ROOT": str(folder / "sys"),
        "NVIDIA_DEV_ROOT": str(folder),
    }


class Killer:
    """Kills a daemon at its first change: before it, or after it."""

    def __init__(self, hardware: Hardware) -> None:
        self.pid: int | None = None
        self.after = False
        hardware.allows, hardware.done = self._allows, self._done

    def aim(self, running: Daemon, *, after: bool) -> None:
        self.after, self.pid = after, running.process.pid

    def _allows(self, verb: str) -> bool:
        del verb
        if self.pid is not None and not self.after:
            self._kill()
            return False
        return True

    def _done(self, verb: str) -> None:
        del verb
        if self.pid is not None and self.after:
            self._kill()

    def _kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        self.pid = None


async def test_killed_before_and_after_every_step(tmp_path: Path, library: Path) -> None:
    node = parse_node("2xa100-40gb:all-3g.20gb")
    variables = environment(tmp_path, library)
    wanted = {**variables, "PARTITION_CONFIG": "all-7g.40gb"}
    with attached(node, tmp_path) as hardware:
        killer = Killer(hardware)
        async with SimKubelet(
            tmp_path / "dp", pod_resources_dir=tmp_path / "pods", readmission_s=None, seed=1
        ) as kubelet:
            async with daemon(variables):
                await kubelet.wait_allocatable(OLD, 4)
                pod = await kubelet.admit(Pod("train", containers={"main": {OLD: 1}}))
            held = pod.containers["main"].envs["CUDA_VISIBLE_DEVICES"]
            busy = next(n for n in (0, 1) if held in {s.ci.uuid for s in node.gpu(n).devices()})
            before = [slot.ci.uuid for slot in node.gpu(busy).devices()]
            for _ in range(STEPS):
                for after in (False, True):
                    async with daemon(wanted) as running:
                        killer.aim(running, after=after)
                        assert await running.ended() == -signal.SIGKILL
            async with daemon(wanted):
                await kubelet.wait_allocatable(NEW, 1)
                await kubelet.wait_for(lambda: kubelet.node_status().get(OLD) == (2, 0), 20)
                # The GPU in use is as it was, the other one is as wanted.
                assert [slot.ci.uuid for slot in node.gpu(busy).devices()] == before
                (made,) = node.gpu(1 - busy).devices()
                assert set(kubelet.devices(NEW)) == {made.ci.uuid}
                assert set(kubelet.devices(OLD)) == set(before)
                assert all(each.compute for gpu in node.gpus for each in gpu.instances)
                await asyncio.to_thread(check_disk, tmp_path)
            assert kubelet.violations == []


def check_disk(folder: Path) -> None:
    saved = json.loads((folder / "state" / MEMORY).read_text())
    assert saved["changing"] == {}
