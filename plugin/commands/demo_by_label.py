"""The demo's third act: the Node's label gives the node another geometry while pods run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plugin.commands import node_label
from plugin.commands.demo_stage import Stage
from plugin.commands.stand_in_cluster import CONDITION, NODE, PARTITION_LABEL, StandInCluster
from plugin.core.inventory.profiles import resource_name
from plugin.core.partition.answer import state_key
from plugin.core.partition.progress import State

#: Between two looks at what the daemon does.
LOOK_SECONDS = 0.02

_ONE, _TWO, _THREE = (resource_name(profile) for profile in ("1g.5gb", "2g.10gb", "3g.20gb"))
_STATE = state_key(PARTITION_LABEL)

#: Where each device of a pod is: UUID → GPU, GPU instance, compute instance.
_Places = Mapping[str, tuple[int, int, int]]


async def play(stage: Stage, cluster: StandInCluster) -> None:
    """Follows the second act: pods in slices of 1g.5gb on GPUs 0 to 5, in 3g.20gb on GPU 6."""
    act = _Act(stage, cluster)
    await act.slices()
    await act.free_gpus_at_once()
    await act.others_when_pods_end()
    await act.back()


class _Act:
    def __init__(self, stage: Stage, cluster: StandInCluster) -> None:
        self._stage, self._cluster = stage, cluster
        #: Pod → its device, and where each device is.
        self._held: dict[str, str] = {}
        self._places: _Places = {}

    async def slices(self) -> None:
        stage = self._stage
        stage.title("The Node's label names a geometry: all-1g.5gb; GPU 6 waits for its pods")
        await self._label("all-1g.5gb")
        await self._answers("pending")
        await self._show_waits(2)
        await self._end(name for name in stage.kubelet.pods if "/large-" in name)
        await stage.allocatable({_ONE: 56, _THREE: 0})
        await self._answers("success")
        await self._end(f"default/job-{number}" for number in range(30, 42))
        stage.expect_running(30)
        await stage.draw()

    async def free_gpus_at_once(self) -> None:
        stage = self._stage
        stage.title("all-balanced while the 30 pods run: what is free changes at once")
        self._held = {name: pod.device_ids[0] for name, pod in stage.kubelet.pods.items()}
        self._places = await self._look()
        await self._label("all-balanced")
        await stage.allocatable({_ONE: 16, _TWO: 4, _THREE: 4})
        await self._answers("pending")
        await self._undisturbed()
        for resource in (_TWO, _THREE):
            await stage.deploy(f"wants-{resource.rpartition('mig-')[2]}", resource, 8, 4)
        await self._show_waits(20)
        await stage.draw()

    async def others_when_pods_end(self) -> None:
        stage = self._stage
        stage.title("The other GPUs change as their pods end, and pods that waited start")
        waits = await self._waits()
        for gpus, there in (((0, 1), 6), ((2, 3), 8)):
            await self._end(name for index in gpus for name in waits.get(index, ()))
            await stage.allocatable({_TWO: there, _THREE: there})
            await self._undisturbed()
            await stage.kubelet.reschedule()
            for resource in (_TWO, _THREE):
                stage.expect(f"of 8 pods with {resource} running", self._running(resource), there)
        await stage.allocatable({_ONE: 16, _TWO: 8, _THREE: 8})
        await self._answers("success")
        await self._counts({_ONE: 16, _TWO: 8, _THREE: 8})
        stage.expect_running(26)
        await stage.draw()

    async def back(self) -> None:
        stage = self._stage
        stage.title("And back by the label, when the last pods have ended")
        await self._label("all-1g.5gb")
        await self._answers("pending")
        await self._waits()
        await self._end(list(stage.kubelet.pods))
        await stage.allocatable({_ONE: 56, _TWO: 0, _THREE: 0})
        await self._answers("success")
        await self._counts({_ONE: 56})
        await stage.deploy("slice", _ONE, 100, 56)

    # ---- the Node

    async def _label(self, name: str) -> None:
        text = f"{PARTITION_LABEL}={name}"
        self._stage.typed("sim", "label", text)
        changes = node_label.parse(text)
        await node_label.put(str(self._cluster.kubeconfig), NODE, changes)
        self._stage.say(node_label.said(NODE, changes), indent=4)

    async def _answers(self, word: str) -> None:
        await self._stage.expect_soon(
            self._cluster.wait_for,
            (f"label {_STATE} of the Node", lambda: self._cluster.labels.get(_STATE), word),
            (f"condition {CONDITION} of the Node", lambda: self._cluster.condition, "True"),
        )

    async def _counts(self, wanted: Mapping[str, int]) -> None:
        """What the Node's labels say of the devices."""
        keys = {f"{resource}.count": str(count) for resource, count in wanted.items()}
        await self._stage.expect_soon(
            self._cluster.wait_for,
            *(
                (f"label {key} of the Node", lambda key=key: self._cluster.labels.get(key), count)
                for key, count in keys.items()
            ),
        )

    # ---- pods and devices

    async def _undisturbed(self) -> None:
        """The pods that have not ended run, on the devices that they were given, which are where
        they were.
        """
        places, pods = await self._look(), self._stage.kubelet.pods
        undisturbed = sum(
            pods[name].phase == "Running"
            and pods[name].device_ids == (uuid,)
            and places.get(uuid) == self._places[uuid]
            for name, uuid in self._held.items()
        )
        what = f"of {len(self._held)} pods from before, undisturbed on their devices"
        self._stage.expect(what, undisturbed, len(self._held))

    def _running(self, resource: str) -> int:
        return sum(
            pod.phase == "Running" and resource in pod.pod.wanted()
            for pod in self._stage.kubelet.pods.values()
        )

    async def _look(self) -> _Places:
        return {
            device["uuid"]: (gpu["index"], device["gi"], device["ci"])
            for gpu in (await self._status())["gpus"]
            for device in gpu["migDevices"]
        }

    async def _end(self, names: Iterable[str]) -> None:
        ended = list(names)
        await self._stage.delete(ended)
        for name in ended:
            self._held.pop(name, None)
        self._stage.say(f"{len(ended)} pods have ended")

    async def _show_waits(self, wanted: int) -> None:
        found = await self._waits()
        for index, pods in found.items():
            names = " ".join(name.rpartition("/")[2] for name in pods)
            self._stage.say(f"GPU {index} waits for {names}")
        self._stage.expect(
            "pods that hold what is in the way", sum(map(len, found.values())), wanted
        )

    async def _waits(self) -> Mapping[int, Sequence[str]]:
        """GPU → the pods that hold what is in the way, once nothing else is left to do. Raises
        TimeoutError.
        """
        async with asyncio.timeout(self._stage.seconds):
            while (found := (await self._status())["partition"])["state"] != State.WAITING:  # noqa: ASYNC110 — in another process
                await asyncio.sleep(LOOK_SECONDS)
        return {
            gpu["index"]: [name for each in gpu["waitsFor"] for name in each["holders"]]
            for gpu in found["gpus"]
            if gpu["waitsFor"]
        }

    async def _status(self) -> Any:
        return await self._stage.daemon.ask("status")
