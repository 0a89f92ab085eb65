"""The stand-in as a server: HTTP with or without TLS, tokens, faults, and a record of requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from plugin.sim.apiserver import rbac
from plugin.sim.apiserver.api import Api
from plugin.sim.apiserver.connection import Connection, Service
from plugin.sim.apiserver.eviction import Budget
from plugin.sim.apiserver.faults import WatchFault
from plugin.sim.apiserver.ownership import Manager, updated
from plugin.sim.apiserver.patches import merge
from plugin.sim.apiserver.storage import Storage

Json = dict[str, Any]


class SimApiServer:
    """Listens on 127.0.0.1 while entered.

    ``users`` are by bearer token; without any, everybody may do everything. The other attributes
    are what tests and simulations look at and change.
    """

    def __init__(
        self,
        *,
        storage: Storage | None = None,
        tls: ssl.SSLContext | None = None,
        users: Mapping[str, rbac.User] | None = None,
        bookmark_seconds: float = 60.0,
    ) -> None:
        self.api = Api(storage or Storage(), bookmark_seconds=bookmark_seconds)
        service = Service(self.api, users=dict(users or {}))
        self.faults, self.journal, self.users = service.faults, service.journal, service.users
        self._service = service
        self.tls = tls
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def storage(self) -> Storage:
        return self.api.storage

    @property
    def budgets(self) -> list[Budget]:
        return self.api.budgets

    @property
    def is_listening(self) -> bool:
        return self._server is not None

    @property
    def connections(self) -> int:
        return len(self._connections)

    # ---- running

    async def __aenter__(self) -> Self:
        await self.back()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.away()

    async def back(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, ssl=self.tls, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def away(self) -> None:
        """Refuse connections and cut the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self._service, reader, writer)
        task = asyncio.create_task(connection.run(), name="API connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # A task that is cancelled before it starts closes nothing.
        task.add_done_callback(lambda _: writer.transport.abort())

    # ---- the cluster's other actors

    def add_node(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Json:
        """As kubelet registers it."""
        metadata: Json = {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **(labels or {})},
        }
        if annotations:
            metadata["annotations"] = dict(annotations)
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "ready",
            "lastHeartbeatTime": self.storage.now(),
            "lastTransitionTime": self.storage.now(),
        }
        node = {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": {},
            "status": {"conditions": [ready]},
            **more,
        }
        return self.storage.put("nodes", node).document

    def change(
        self, resource: str, name: str, patch: Json, namespace: str = "", *, manager: str = "other"
    ) -> Json:
        """A merge patch by another actor, the owner of what it changes."""
        stored = self.storage.get(resource, namespace, name)
        if stored is None:
            raise KeyError(name)
        new = merge(stored.document, patch)
        owners = updated(stored.owners, stored.document, new, Manager(manager, "Update"))
        return self.storage.put(resource, new, owners).document

    def add_pod(
        self,
        node: str,
        name: str,
        *,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        owner: str = "ReplicaSet",
        phase: str = "Running",
        annotations: Mapping[str, str] | None = None,
    ) -> Json:
        """A pod that the scheduler has bound to `node`."""
        metadata: Json = {"name": name, "namespace": namespace, "labels": dict(labels or {})}
        if annotations:
            metadata["annotations"] = dict(annotations)
        if owner:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": "v1" if owner == "Node" else "apps/v1",
                    "kind": owner,
                    "name": f"{name}-owner",
                    "uid": f"{name}-owner",
                    "controller": True,
                }
            ]
        pod = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x"}]},
            "status": {"phase": phase},
        }
        return self.storage.put("pods", pod).document

    def remove_pod(self, name: str, namespace: str = "default") -> None:
        """As kubelet does once the containers have ended."""
        self.storage.remove("pods", namespace, name)

    def disturb_watches(self, fault: WatchFault) -> int:
        """Do this to every open watch; how many there were."""
        followers = self.storage.followers()
        for follower in followers:
            follower.queue.put_nowait(fault)
        return len(followers)

    def node(self, name: str) -> Json:
        """The Node as clients see it."""
        stored = self.storage.get("nodes", "", name)
        if stored is None:
            raise KeyError(name)
        return stored.shown()

    def events(self) -> Sequence[Json]:
        """All Events, as events.k8s.io/v1."""
        return [stored.document for stored in self.storage.select("events", "", ())]
