"""Admission and life of pods on the stand-in kubelet: schedule, allocate, restart, fail, delete."""

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
    """The pods of one node, admitted one at a time. They outlive the kubelet process and its device
    manager.
    """

    def __init__(
        self,
        manager: Callable[[], DeviceManager],
        *,
        schedulable: Callable[[str], int],
        changed: Callable[[], None],
    ) -> None:
        """``schedulable`` is how many devices of a resource the scheduler believes the node has."""
        self._manager = manager
        self._schedulable = schedulable
        self._changed = changed
        self._lock = asyncio.Lock()
        self.pods: dict[str, PodResult] = {}

    async def admit(self, pod: Pod) -> PodResult:
        """Schedule and start a pod. The result lives on: it changes with the pod until the pod is
        deleted.
        """
        if pod.key in self.pods:
            raise SimulationError(f"pod {pod.key} exists; delete it first")
        result = self.pods[pod.key] = PodResult(pod)
        await self._schedule(result)
        return result

    async def reschedule(self) -> None:
        """Try pending pods again, oldest first, as the scheduler does when a node changes."""
        for result in list(self.pods.values()):
            if result.phase == "Pending" and not result.admitted:
                await self._schedule(result)

    async def delete(self, pod: Pod) -> None:
        """Delete a pod and free what it held. An unknown pod is a :class:`SimulationError`."""
        async with self._lock:
            if self.pods.pop(pod.key, None) is None:
                raise SimulationError(f"there is no pod {pod.key}")
            self._manager().release(self.pods)
            self._changed()

    def finish(self, pod: Pod) -> None:
        """Let every container end well; what it held is free with the next allocation."""
        result = self._container(pod, next(iter(pod.containers)))
        result.phase, result.reason, result.waiting = "Succeeded", "", set()
        self._changed()

    def crash(self, pod: Pod, container: str) -> None:
        """Let a container end and wait for its restart."""
        self._container(pod, container).waiting.add(container)
        self._changed()

    async def restart_container(self, pod: Pod, container: str) -> PodResult:
        """Start a container again with the stored answers, without Allocate; a device gone or
        unhealthy fails the pod.

        While the plugin is away nothing is known against the devices, and the container starts.
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
                    ) not in manager.assignments:  # lost with the checkpoint
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
        """Admit every pod anew that has a container which is not running, as kubelet does after its
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
        """Return the first resource of which the scheduler sees too little; it counts requests, not
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
        """Show the health of devices that pods hold. Devices that left the list keep what was shown
        last.
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
        """These and the ones that have ended."""
        return [result for result in self.pods.values() if result.containers]

    def _container(self, pod: Pod, container: str) -> PodResult:
        result = self.pods.get(pod.key)
        if result is None or not result.admitted or container not in result.pod.containers:
            raise SimulationError(f"no pod {pod.key} on the node has a container {container!r}")
        return result
