"""Pods on the stand-in kubelet: schedule, allocate, restart, fail, delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from plugin.errors import KubeletError, SimulationError
from plugin.sim.kubelet.pods import Pod, PodResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin.sim.kubelet.devices import ListedDevice
    from plugin.sim.kubelet.manager import DeviceManager


class PodLedger:
    """The pods of one node, admitted one at a time. Survives restarts of the kubelet."""

    def __init__(
        self,
        manager: Callable[[], DeviceManager],
        *,
        schedulable: Callable[[str], int],
        changed: Callable[[], None],
    ) -> None:
        """``schedulable`` returns a resource's devices as known to the scheduler."""
        self._manager = manager
        self._schedulable = schedulable
        self._changed = changed
        self._lock = asyncio.Lock()
        self.pods: dict[str, PodResult] = {}

    async def admit(self, pod: Pod) -> PodResult:
        """Schedule and start a pod. The result is updated until the pod is deleted."""
        if pod.key in self.pods:
            raise SimulationError(f"pod {pod.key} exists; delete it first")
        result = self.pods[pod.key] = PodResult(pod)
        await self._schedule(result)
        return result

    async def reschedule(self) -> None:
        """Try pending pods again, oldest first, as the scheduler does after a node change."""
        for result in list(self.pods.values()):
            if result.phase == "Pending" and not result.admitted:
                await self._schedule(result)

    async def delete(self, pod: Pod) -> None:
        """Delete a pod and free its devices. An unknown pod is a :class:`SimulationError`."""
        async with self._lock:
            if self.pods.pop(pod.key, None) is None:
                raise SimulationError(f"there is no pod {pod.key}")
            self._manager().release(self.pods)
            self._changed()

    def finish(self, pod: Pod) -> None:
        """Let every container succeed; the next allocation frees its devices."""
        result = self._container(pod, next(iter(pod.containers)))
        result.phase, result.reason, result.waiting = "Succeeded", "", set()
        self._changed()

    def crash(self, pod: Pod, container: str) -> None:
        """Let a container exit and wait for its restart."""
        self._container(pod, container).waiting.add(container)
        self._changed()

    async def restart_container(self, pod: Pod, container: str) -> PodResult:
        """Restart a container with the stored responses, without Allocate; a missing or unhealthy
        device fails the pod.

        While the plugin is away, devices count as healthy.
        """
        async with self._lock:
            result = self._container(pod, container)
            manager = self._manager()
            try:
                for resource, count in result.pod.containers[container].items():
                    if (
                        pod.key,
                        container,
                        resource,
                    ) not in manager.assignments:  # the checkpoint was lost
                        await manager.allocate(pod.key, container, [(resource, count)])
                    elif manager.live(resource):
                        manager.check_held(pod.key, container, resource)
            except KubeletError as error:
                result.fail(f"UnexpectedAdmissionError: {error}")
            else:
                await self._start_container(result, container)
            self._changed()
            return result

    async def readmit(self) -> None:
        """Admit again every pod with a container that is not running, as kubelet does after its
        start.
        """
        for result in self.admitted():
            if result.waiting:
                async with self._lock:
                    await self._allocate(result, sorted(result.waiting))
                    self._changed()

    async def _schedule(self, result: PodResult) -> None:
        async with self._lock:
            self._manager().release({pod.pod.key for pod in self.admitted()} | {result.pod.key})
            shortage = "" if result.pod.bound else self._shortage(result.pod)
            if shortage:
                result.phase, result.reason = "Pending", f"Insufficient {shortage}"
            else:
                await self._allocate(result, list(result.pod.containers))
            self._changed()

    def _shortage(self, pod: Pod) -> str:
        """The first resource with too little capacity; the scheduler counts requests, not
        devices.
        """
        others = [entry.pod.wanted() for entry in self.admitted()]
        for resource, count in pod.wanted().items():
            if (
                self._schedulable(resource) - sum(wanted.get(resource, 0) for wanted in others)
                < count
            ):
                return resource
        return ""

    async def _allocate(self, result: PodResult, containers: list[str]) -> None:
        manager = self._manager()
        result.reason = ""
        try:
            for container in containers:
                await manager.allocate(
                    result.pod.key, container, result.pod.containers[container].items()
                )
        except KubeletError as error:
            result.fail(f"UnexpectedAdmissionError: Allocate failed: {error}")
            return
        for container in containers:
            await self._start_container(result, container)

    async def _start_container(self, result: PodResult, container: str) -> None:
        manager = self._manager()
        try:
            await manager.prepare(result.pod.key, container)
        except KubeletError as error:
            result.waiting.add(container)
            result.phase, result.reason = "Pending", f"CreateContainerConfigError: {error}"
            return
        finally:
            result.containers[container] = manager.container(result.pod.key, container)
            for resource, ids in result.containers[container].device_ids.items():
                view = manager.views.get(resource)
                known = view.devices if view else {}
                result.device_health |= {
                    device: known[device].health for device in ids if device in known
                }
        result.waiting.discard(container)
        if not result.waiting:
            result.phase, result.reason = "Running", ""

    def show_health(self, resource: str, devices: tuple[ListedDevice, ...]) -> None:
        """Update the shown health of held devices. Devices that left the list keep their last
        health.
        """
        health = {device.id: device.health for device in devices}
        for held in self._manager().assignments.values():
            if held.resource == resource and held.pod in self.pods:
                shown = self.pods[held.pod].device_health
                shown |= {device: health[device] for device in held.ids if device in health}

    def admitted(self) -> list[PodResult]:
        """Pods on the node that have not ended."""
        return [result for result in self.pods.values() if result.admitted]

    def admitted_once(self) -> list[PodResult]:
        """The same, and pods that have ended."""
        return [result for result in self.pods.values() if result.containers]

    def _container(self, pod: Pod, container: str) -> PodResult:
        result = self.pods.get(pod.key)
        if result is None or not result.admitted or container not in result.pod.containers:
            raise SimulationError(f"no pod {pod.key} on the node has a container {container!r}")
        return result
