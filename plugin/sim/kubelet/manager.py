"""The stand-in kubelet's device manager: devices, their holders, and allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from plugin.errors import KubeletError
from plugin.sim.kubelet import checkpoint
from plugin.sim.kubelet.devices import ResourceView
from plugin.sim.kubelet.pods import Assignment, ContainerResult, merge, response_faults

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Container, Iterable
    from pathlib import Path

    from plugin.api import deviceplugin_v1beta1_pb2 as pb
    from plugin.sim.kubelet.devices import ListedDevice
    from plugin.sim.kubelet.journal import Kind
    from plugin.sim.kubelet.wire import PluginConnection

#: Seconds after which kubelet forgets a resource without its plugin.
STOP_GRACE_S = 300.0


class EndpointInfo(Struct):
    """The target of Allocate. ``connection`` is ``None`` for a resource from the checkpoint."""

    connection: PluginConnection | None
    options: pb.DevicePluginOptions | None
    stopped_at: float | None = None

    def running(self, resource: str) -> PluginConnection:
        """The connection for calls. Raises :class:`KubeletError` if its plugin is gone, even while
        an older plugin's stream is open.
        """
        if self.connection is None:
            raise KubeletError(f"no device plugin is known for {resource}")
        if self.stopped_at is not None:
            raise KubeletError(f"endpoint {self.connection.endpoint} has been stopped")
        return self.connection


class DeviceManager:
    """Device state of one kubelet process; a restart creates a new one from the checkpoint.

    A resource has a view once a list arrived, and an endpoint once a plugin connected. As in
    kubelet these are separate, and a failed registration leaves an unwatched endpoint behind.
    """

    def __init__(
        self,
        directory: Path,
        rng: random.Random,
        *,
        now: float,
        report: Callable[[Kind, str, str], None],
    ) -> None:
        """``report`` takes (kind, resource, sentence) for every breach of the protocol."""
        self._directory = directory
        self._rng = rng
        self._report = report
        self.views: dict[str, ResourceView] = {}
        self.endpoints: dict[str, EndpointInfo] = {}
        held, registered = checkpoint.load(directory)
        self.assignments = {(a.pod, a.container, a.resource): a for a in held}
        for resource in registered:
            self.views[resource] = ResourceView()
            self.endpoints[resource] = EndpointInfo(None, None, stopped_at=now)

    # Calls by plugins

    def connected(self, connection: PluginConnection, options: pb.DevicePluginOptions) -> None:
        self.endpoints[connection.resource] = EndpointInfo(connection, options)

    def disconnected(self, resource: str, now: float) -> None:
        endpoint = self.endpoints.get(resource)
        if endpoint is not None:
            endpoint.stopped_at = now
            self.views.setdefault(resource, ResourceView()).lose_plugin()

    def listed(self, resource: str, devices: Iterable[ListedDevice]) -> None:
        self.views.setdefault(resource, ResourceView()).update(devices)
        self.save()

    def expire(self, now: float) -> None:
        """Forget resources whose plugin has been away for too long."""
        gone = [
            resource
            for resource, endpoint in self.endpoints.items()
            if endpoint.stopped_at is not None and now - endpoint.stopped_at > STOP_GRACE_S
        ]
        for resource in gone:
            del self.endpoints[resource]
            self.views.pop(resource, None)
        if gone:
            self.save()

    def live(self, resource: str) -> bool:
        """Whether kubelet believes that the plugin is there; wrong after a failed registration."""
        endpoint = self.endpoints.get(resource)
        return endpoint is not None and endpoint.stopped_at is None

    # Calls by pods

    def held(self, resource: str) -> set[str]:
        return {
            device for a in self.assignments.values() if a.resource == resource for device in a.ids
        }

    def container(self, pod: str, container: str) -> ContainerResult:
        """The container's devices, from the stored responses."""
        return merge(
            a for a in self.assignments.values() if (a.pod, a.container) == (pod, container)
        )

    def release(self, active: Container[str]) -> None:
        """Forget the devices of pods that are no longer ``active``."""
        kept = {key: a for key, a in self.assignments.items() if a.pod in active}
        if len(kept) != len(self.assignments):
            self.assignments = kept
            self.save()

    async def allocate(self, pod: str, container: str, requests: Iterable[tuple[str, int]]) -> None:
        """Allocate a container's devices. It keeps devices that it holds, if healthy.

        Raises :class:`KubeletError` with kubelet's reason; earlier allocations stay.
        """
        for resource, count in requests:
            if count == 0 or not self._is_ours(resource):
                continue
            if (pod, container, resource) in self.assignments:
                self.check_held(pod, container, resource)
                continue
            ids = await self._choose(resource, count)
            await self._allocate(pod, container, resource, ids)
        self.save()

    async def prepare(self, pod: str, container: str) -> None:
        """Call PreStartContainer for plugins that require it."""
        for held in [
            a for a in self.assignments.values() if (a.pod, a.container) == (pod, container)
        ]:
            endpoint = self.endpoints.get(held.resource)
            if (
                endpoint
                and endpoint.connection
                and endpoint.options
                and endpoint.options.pre_start_required
            ):
                await endpoint.connection.pre_start(self._shuffled(held.ids))

    def check_held(self, pod: str, container: str, resource: str) -> None:
        """Raise :class:`KubeletError` unless the container's devices exist and are healthy."""
        view = self._healthy_view(resource)
        missing = self.assignments[pod, container, resource].ids.keys() - view.healthy
        if missing:
            raise KubeletError(
                "previously allocated devices are no longer healthy; cannot allocate unhealthy "
                f"devices {resource}"
                f" ({', '.join(sorted(missing))})"
            )

    def save(self) -> None:
        registered = {resource: sorted(view.healthy) for resource, view in self.views.items()}
        checkpoint.save(self._directory, self.assignments.values(), registered)

    def _is_ours(self, resource: str) -> bool:
        return resource in self.views or any(
            a.resource == resource for a in self.assignments.values()
        )

    def _healthy_view(self, resource: str) -> ResourceView:
        view = self.views.get(resource)
        if view is None:
            raise KubeletError(f"cannot allocate unregistered device {resource}")
        if not view.healthy:
            raise KubeletError(
                f"no healthy devices present; cannot allocate unhealthy devices {resource}"
            )
        return view

    async def _choose(self, resource: str, count: int) -> list[str]:
        available = self._healthy_view(resource).healthy - self.held(resource)
        if len(available) < count:
            raise KubeletError(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {count}, Available: {len(available)}"
            )
        endpoint = self.endpoints.get(resource)
        preferred: list[str] = []
        if (
            endpoint
            and endpoint.connection
            and endpoint.options
            and endpoint.options.get_preferred_allocation_available
        ):
            preferred = await endpoint.running(resource).prefer(self._shuffled(available), count)
        chosen = self._shuffled(available.intersection(preferred))[:count]
        rest = self._shuffled(available.difference(chosen))
        return self._shuffled([*chosen, *rest[: count - len(chosen)]])

    async def _allocate(self, pod: str, container: str, resource: str, ids: list[str]) -> None:
        endpoint = self.endpoints.get(resource)
        if endpoint is None:
            raise KubeletError(f"no device plugin is known for {resource}")
        connection = endpoint.running(resource)
        numa = {device: self._numa(resource, device) for device in ids}
        response = await connection.allocate(ids)
        for fault in response_faults(response):
            self._report("allocate-response", resource, fault)
        if not response.container_responses:
            raise KubeletError(f"Allocate on {connection.endpoint} answered for no container")
        answer = response.container_responses[0]
        self.assignments[pod, container, resource] = Assignment(
            pod, container, resource, numa, answer
        )

    def _numa(self, resource: str, device: str) -> int:
        return next(iter(self.views[resource].devices[device].numa), -1)

    def _shuffled(self, ids: Iterable[str]) -> list[str]:
        # Sorted, since a set's order differs between runs despite the seed.
        order = sorted(ids)
        self._rng.shuffle(order)
        return order
