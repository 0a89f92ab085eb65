"""A stand-in for kubelet, as strict as the real one: plugins register, and pods get their devices.

It serves the device plugin and pod resources APIs on real sockets in its own directory, and copies
kubelet's oddities: a failed registration orphans a live plugin, the end of an older stream
disconnects the newer one, checkpoints can be lost. Node status is immediate unless held.
"""

from __future__ import annotations

import asyncio
import random
import stat
import time
from typing import TYPE_CHECKING, Self

from plugin.api import deviceplugin_v1beta1_pb2_grpc as pb_grpc
from plugin.api import podresources_v1_pb2_grpc as podresources_grpc
from plugin.errors import SimulationError
from plugin.loops.ended import ended
from plugin.sim.kubelet import checkpoint
from plugin.sim.kubelet.admission import PodLedger
from plugin.sim.kubelet.journal import Journal, ListMessage, Registration, Violation
from plugin.sim.kubelet.manager import DeviceManager
from plugin.sim.kubelet.podresources import AS_SEEN, PodResources, Relisting
from plugin.sim.kubelet.pods import Pod, PodResult
from plugin.sim.kubelet.registry import Registry
from plugin.sim.kubelet.wire import SocketServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plugin.sim.kubelet.devices import ListedDevice

SOCKET = "kubelet.sock"


class SimKubelet:
    """One node's kubelet; ``async with`` starts and stops it. Belongs to one event loop.

    ``register_timeout_s`` limits the dial inside Register. ``readmission_s`` after a start, pods
    with containers that are not running are admitted again; ``None`` leaves that to
    :meth:`readmit`. ``relisting`` is how pod resources fill after a start; with
    ``lists_ended_pods`` they include ended pods, as before Kubernetes 1.32. ``clock`` returns
    seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pod_resources_dir: Path | None = None,
        register_timeout_s: float = 10.0,
        readmission_s: float | None = 1.0,
        relisting: Relisting = AS_SEEN,
        lists_ended_pods: bool = False,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self._pod_resources_dir = pod_resources_dir
        self._register_timeout_s = register_timeout_s
        self._readmission_s = readmission_s
        self._rng = random.Random(seed)  # noqa: S311 - kubelet's choice is arbitrary, not secret
        self._relisting = relisting
        self._relisting_rng = random.Random(seed)  # noqa: S311 - as above
        self._lists_ended_pods = lists_ended_pods
        self._journal = Journal(clock)
        self._sockets: dict[str, tuple[str, object]] = {}
        self._servers: list[SocketServer] = []
        self._readmission: asyncio.Task[None] | None = None
        self._held_status: dict[str, int] | None = None
        self._known: set[str] = set()
        self._manager: DeviceManager | None = None
        self._registry: Registry | None = None
        self._pods = PodLedger(
            self._running_manager, schedulable=self._schedulable, changed=self._journal.changed
        )

    # The process

    async def start(self) -> None:
        """Remove every socket in the directory, read the checkpoint, listen on a new
        ``kubelet.sock``.
        """
        if self._servers:
            raise SimulationError("the stand-in kubelet is running already; stop it first")
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        journal = self._journal
        manager = DeviceManager(
            self.directory, self._rng, now=journal.clock(), report=journal.violation
        )
        registry = Registry(
            self.directory,
            manager,
            journal,
            sockets=self._sockets,
            on_list=self._on_list,
            timeout_s=self._register_timeout_s,
        )
        self._manager, self._registry = manager, registry
        if self._pod_resources_dir is not None:
            self._pod_resources_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            server = SocketServer(self._pod_resources_dir, SOCKET)
            answers = PodResources(
                manager,
                self._pods.admitted_once if self._lists_ended_pods else self._pods.admitted,
                journal.clock,
                self._relisting.plan(self.pods, journal.clock(), self._relisting_rng),
            )
            podresources_grpc.add_PodResourcesListerServicer_to_server(answers, server.server)
            await self._serve(server)
        server = SocketServer(self.directory, SOCKET)
        pb_grpc.add_RegistrationServicer_to_server(registry, server.server)
        await self._serve(server)
        if self._readmission_s is not None:
            self._readmission = asyncio.create_task(
                self._readmit_later(self._readmission_s), name="readmission"
            )
        journal.changed()

    async def stop(self) -> None:
        """Drop every connection. Socket files, the checkpoint and pods stay, as with the real
        process.
        """
        if self._readmission is not None:
            self._readmission.cancel()
            await asyncio.gather(self._readmission, return_exceptions=True)
            self._readmission = None
        # Servers first, so that no plugin registers while connections close.
        while self._servers:
            await self._servers.pop().stop()
        if self._registry is not None:
            await self._registry.close()
        self._journal.changed()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        stopping = asyncio.create_task(self.stop(), name="stop the stand-in kubelet")
        await ended(stopping)
        stopping.result()

    def forget_checkpoint(self) -> None:
        """Lose the checkpoint. Call it while stopped: a running kubelet soon writes it again."""
        (self.directory / checkpoint.NAME).unlink(missing_ok=True)

    # What plugins did

    @property
    def registrations(self) -> list[Registration]:
        return self._journal.registrations

    @property
    def refusals(self) -> list[Registration]:
        return self._journal.refusals

    @property
    def messages(self) -> list[ListMessage]:
        return self._journal.messages

    @property
    def violations(self) -> list[Violation]:
        return self._journal.violations

    def live_streams(self, resource: str) -> int:
        return self._registry.live_streams(resource) if self._registry else 0

    # The node's status

    def capacity(self, resource: str) -> int:
        view = self._fresh().views.get(resource)
        return view.capacity if view else 0

    def allocatable(self, resource: str) -> int:
        view = self._fresh().views.get(resource)
        return view.allocatable if view else 0

    def devices(self, resource: str) -> dict[str, ListedDevice]:
        """The resource's last list, by id."""
        view = self._fresh().views.get(resource)
        return dict(view.devices) if view else {}

    def holders(self, resource: str) -> dict[str, str]:
        """Device id → ``namespace/name`` of its pod."""
        held = self._running_manager().assignments.values()
        return {
            device: entry.pod
            for entry in held
            if entry.resource == resource
            for device in entry.ids
        }

    def node_status(self) -> dict[str, tuple[int, int]]:
        """Resource → (capacity, allocatable); zeros for a resource that disappeared."""
        self._known |= self._fresh().views.keys()
        return {
            resource: (self.capacity(resource), self.allocatable(resource))
            for resource in sorted(self._known)
        }

    def hold_node_status(self) -> None:
        """Freeze the scheduler's view of the node until :meth:`sync_node_status`, as between two
        ticks.
        """
        self._held_status = {
            resource: numbers[1] for resource, numbers in self.node_status().items()
        }

    def sync_node_status(self) -> None:
        self._held_status = None

    # Waiting

    async def wait_for(self, predicate: Callable[[], bool], timeout: float = 30.0) -> None:  # noqa: ASYNC109 - the
        # time-out is turned into an error that tells the state, which a caller's own could not do.
        """Wait until ``predicate`` holds, evaluated after every change; TimeoutError after
        ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._journal.wait_for(predicate)
        except TimeoutError:
            raise TimeoutError(
                f"not within {timeout:g} s; the stand-in kubelet has\n{self.describe()}"
            ) from None

    async def wait_allocatable(self, resource: str, count: int, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - as above
        await self.wait_for(lambda: self.allocatable(resource) == count, timeout)

    def describe(self) -> str:
        """The state in a few lines."""
        journal = self._journal
        lines = [
            f"  {resource}: capacity {numbers[0]}, allocatable {numbers[1]}, "
            f"{self.live_streams(resource)} streams, "
            f"{sum(message.resource == resource for message in journal.messages)} lists"
            for resource, numbers in self.node_status().items()
        ]
        lines += [
            f"  registered {entry.resource} on {entry.endpoint}"
            for entry in journal.registrations[-10:]
        ]
        lines += [
            f"  refused {entry.resource} on {entry.endpoint}: {entry.error}"
            for entry in journal.refusals[-10:]
        ]
        lines += [
            f"  violation {entry.kind} by {entry.resource}: {entry.detail}"
            for entry in journal.violations[-10:]
        ]
        lines += [
            f"  pod {key}: {pod.phase} {pod.reason}" for key, pod in list(self.pods.items())[:10]
        ]
        return "\n".join(lines) or "  nothing: no plugin has registered"

    # Pods

    @property
    def pods(self) -> dict[str, PodResult]:
        """Every pod, including failed and pending ones, by ``namespace/name``."""
        return self._pods.pods

    async def admit(self, pod: Pod) -> PodResult:
        """See :meth:`PodLedger.admit`, and below likewise."""
        return await self._pods.admit(pod)

    async def reschedule(self) -> None:
        await self._pods.reschedule()

    async def delete(self, pod: Pod) -> None:
        await self._pods.delete(pod)

    async def deploy(self, name: str, resource: str, replicas: int) -> tuple[int, int]:
        """Admit ``replicas`` pods of one device each; returns (running, pending)."""
        results = [
            await self.admit(Pod(f"{name}-{number}", containers={"main": {resource: 1}}))
            for number in range(replicas)
        ]
        phases = [result.phase for result in results]
        return phases.count("Running"), phases.count("Pending")

    def finish(self, pod: Pod) -> None:
        self._pods.finish(pod)

    def crash(self, pod: Pod, container: str) -> None:
        self._pods.crash(pod, container)

    async def restart_container(self, pod: Pod, container: str) -> PodResult:
        return await self._pods.restart_container(pod, container)

    async def readmit(self) -> None:
        await self._pods.readmit()

    async def _readmit_later(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.readmit()

    async def _serve(self, server: SocketServer) -> None:
        await server.start()
        self._servers.append(server)

    def _on_list(self, resource: str, devices: tuple[ListedDevice, ...]) -> None:
        self._known.add(resource)
        self._pods.show_health(resource, devices)

    def _schedulable(self, resource: str) -> int:
        return (
            self.allocatable(resource)
            if self._held_status is None
            else self._held_status.get(resource, 0)
        )

    def _running_manager(self) -> DeviceManager:
        if self._manager is None:
            raise SimulationError("the stand-in kubelet was never started")
        return self._manager

    def _fresh(self) -> DeviceManager:
        manager = self._running_manager()
        manager.expire(self._journal.clock())
        return manager
