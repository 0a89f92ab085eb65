"""The cluster over HTTP: each method of :class:`plugin.cluster.api.Cluster` is one request."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from plugin.cluster import wire
from plugin.cluster.credentials import Credentials, in_cluster
from plugin.cluster.http import Answer, Transport
from plugin.cluster.pacing import Pacing
from plugin.cluster.reflector import Reflector, Source
from plugin.cluster.session import Call, Session, Traffic, json_of
from plugin.core.cluster import (
    Changes,
    Event,
    Evicted,
    Eviction,
    Node,
    NodeCondition,
    NodeMetadata,
    Pod,
    Taint,
)
from plugin.errors import ClusterRefused

T = TypeVar("T")

_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_ONLY_METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_EVENTS = "/apis/events.k8s.io/v1/namespaces"

#: The cause in the details of a refused eviction (policy/v1, DisruptionBudgetCause).
BUDGET_CAUSE = "DisruptionBudget"


class ApiClient:
    """Implements :class:`plugin.cluster.api.Cluster`; ``traffic`` is for metrics."""

    def __init__(
        self,
        node: str,
        credentials: Credentials,
        *,
        transport: Transport | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        self.node = node
        self._session = Session(transport or Transport(credentials), pacing)
        self._path = f"/api/v1/nodes/{quote(node, safe='')}"

    @property
    def traffic(self) -> Traffic:
        return self._session.traffic

    def close(self) -> None:
        """Close the connection between requests; watches end with their tasks."""
        self._session.close()

    async def may_ask(self) -> None:
        await self._session.may_ask()

    async def get_node(self) -> Node:
        call = Call("get", "nodes", self._path, expected=_coded(HTTPStatus.NOT_FOUND))
        return await self._session.send(call, self._node_of)

    def _node_of(self, answer: Answer) -> Node:
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ClusterRefused(
                f"the cluster has no Node {self.node}",
                "set NODE_NAME to the Node's name (spec.nodeName)",
                code=HTTPStatus.NOT_FOUND,
                reason="NotFound",
            )
        return wire.node(json_of(answer))

    async def patch_metadata(
        self,
        current: NodeMetadata,
        *,
        labels: Changes | None = None,
        annotations: Changes | None = None,
        conditional: bool = False,
    ) -> NodeMetadata:
        patch = wire.metadata_patch(
            current, labels or {}, annotations or {}, conditional=conditional
        )
        return current if patch is None else await self._patch_node(patch)

    async def put_taints(
        self, current: Node, taints: tuple[Taint, ...], annotations: Changes | None = None
    ) -> NodeMetadata:
        patch = wire.taints_patch(current, taints, annotations or {})
        return current.metadata if patch is None else await self._patch_node(patch)

    async def put_condition(self, condition: NodeCondition) -> None:
        await self._patch_status(wire.condition_patch(condition))

    async def remove_condition(self, kind: str) -> None:
        await self._patch_status(wire.condition_removal(kind))

    async def create_event(self, event: Event) -> None:
        namespace = quote(event.subject.event_namespace, safe="")
        # Sent twice over a stale connection, the second finds the first.
        await self._session.send(
            Call(
                "create",
                "events",
                f"{_EVENTS}/{namespace}/events",
                body=wire.event(event, self.node),
                expected=_coded(HTTPStatus.CONFLICT),
            ),
            _status,
        )

    async def repeat_event(self, event: Event, count: int, last: float) -> bool:
        namespace = quote(event.subject.event_namespace, safe="")
        status = await self._session.send(
            Call(
                "patch",
                "events",
                f"{_EVENTS}/{namespace}/events/{quote(event.name, safe='')}",
                body=wire.series_patch(count, last),
                content_type=_MERGE,
                expected=_coded(HTTPStatus.NOT_FOUND),
            ),
            _status,
        )
        return status != HTTPStatus.NOT_FOUND

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        call = Call(
            "list",
            "pods",
            f"/api/v1/namespaces/{quote(namespace, safe='')}/pods",
            {"fieldSelector": f"metadata.name={name},spec.nodeName={self.node}"},
        )
        found = await self._session.send(call, lambda answer: wire.items(json_of(answer)))
        return next(map(wire.pod, found), None)

    async def evict(self, pod: Pod, grace_seconds: int | None = None) -> Eviction:
        namespace, name = quote(pod.namespace, safe=""), quote(pod.name, safe="")
        call = Call(
            "create",
            "pods/eviction",
            f"/api/v1/namespaces/{namespace}/pods/{name}/eviction",
            body=wire.eviction(pod, grace_seconds),
            expected=lambda error: refused_eviction(error) is not None,
        )
        return await self._session.send(call, lambda answer: self._evicted(call, answer))

    def _evicted(self, call: Call, answer: Answer) -> Eviction:
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return Eviction(Evicted.BEGUN)
        error = self._session.refusal(call, answer)
        outcome = refused_eviction(error)
        if outcome is None:
            raise error
        return outcome

    def watch_node(self) -> Reflector[NodeMetadata]:
        return Reflector(self._session, self._nodes)

    def watch_pods(self) -> Reflector[Pod]:
        return Reflector(self._session, self._pods)

    async def list_node(self) -> tuple[NodeMetadata, ...]:
        """The Node's metadata, once; empty if there is none of this name."""
        return await self._list(self._nodes)

    async def list_pods(self) -> tuple[Pod, ...]:
        """The pods bound to this node, once."""
        return await self._list(self._pods)

    async def _list(self, source: Source[T]) -> tuple[T, ...]:
        found = await self._session.send(
            source.call("list"), lambda answer: wire.items(json_of(answer))
        )
        return tuple(source.parse(each)[1] for each in found)

    @property
    def _nodes(self) -> Source[NodeMetadata]:
        return Source(
            "nodes",
            "/api/v1/nodes",
            f"metadata.name={self.node}",
            _named_node,
            only_metadata=True,
            expected=self.node,
        )

    @property
    def _pods(self) -> Source[Pod]:
        return Source("pods", "/api/v1/pods", f"spec.nodeName={self.node}", _pod_by_uid)

    async def _patch_node(self, body: Any) -> NodeMetadata:
        call = Call(
            "patch", "nodes", self._path, body=body, content_type=_MERGE, accept=_ONLY_METADATA
        )
        return await self._session.send(call, lambda answer: wire.node_metadata(json_of(answer)))

    async def _patch_status(self, body: Any) -> None:
        await self._session.send(
            Call(
                "patch",
                "nodes/status",
                f"{self._path}/status",
                body=body,
                content_type=_STRATEGIC,
                accept=_ONLY_METADATA,
            ),
            _status,
        )


def refused_eviction(error: ClusterRefused) -> Eviction | None:
    """What an error means for the pod; ``None`` if it says nothing about it."""
    match error.code:
        case HTTPStatus.NOT_FOUND | HTTPStatus.CONFLICT:
            return Eviction(Evicted.GONE, detail=error.message)
        case HTTPStatus.FORBIDDEN:
            return Eviction(Evicted.FORBIDDEN, detail=error.message)
        # Flow control answers 429 too, without this cause.
        case HTTPStatus.TOO_MANY_REQUESTS if BUDGET_CAUSE in error.causes:
            return Eviction(Evicted.BUDGET_SPENT, error.retry_after, error.message)
        # Several budgets: the only Status of 500 without a reason; errors of the server have one.
        case HTTPStatus.INTERNAL_SERVER_ERROR if error.message and not error.reason:
            return Eviction(Evicted.NEVER, detail=error.message)
        case _:
            return None


def _status(answer: Answer) -> int:
    if answer.status < HTTPStatus.MULTIPLE_CHOICES:
        json_of(answer)  # a proxy's page of 200 did nothing
    return answer.status


def _coded(code: int) -> Callable[[ClusterRefused], bool]:
    return lambda error: error.code == code


def _named_node(document: Mapping[str, Any]) -> tuple[str, NodeMetadata]:
    node = wire.node_metadata(document)
    return node.name, node


def _pod_by_uid(document: Mapping[str, Any]) -> tuple[str, Pod]:
    pod = wire.pod(document)
    return pod.uid, pod


def own_node(name: str, host: Callable[[], str] = socket.gethostname) -> str:
    """The Node's name: `name` of the settings, else the host's, as kubelet writes it."""
    return name or host().strip().lower()


def connect(node: str, kubeconfig: str = "") -> ApiClient:
    """The client for the Node called `node`: with a kubeconfig file, else as the pod that we run
    in. Raises :class:`ConfigError`.
    """
    if not kubeconfig:
        return ApiClient(node, in_cluster())
    from plugin.cluster.kubeconfig import load  # noqa: PLC0415 — YAML, which a pod does not need

    return ApiClient(node, load(Path(kubeconfig)))
