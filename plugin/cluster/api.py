"""The interface to the cluster; features depend on it and on nothing else of this room."""

from __future__ import annotations

from typing import Protocol, TypeVar

from plugin.core.cluster import (
    Changes,
    Collection,
    Event,
    Eviction,
    Node,
    NodeCondition,
    NodeMetadata,
    Pod,
    Taint,
)

T = TypeVar("T")


class Watched(Protocol[T]):
    """A collection that :meth:`run` follows: list, then watch. Used from the event loop only."""

    @property
    def now(self) -> Collection[T]:
        """What is known now."""

    async def newer_than(self, generation: int) -> Collection[T]:
        """Wait for a collection newer than `generation`."""

    async def run(self) -> None:
        """Follow until cancelled. Raises nothing of the cluster's."""


class Cluster(Protocol):
    """Requests about one node. Each makes one attempt and raises :class:`ClusterError`.

    A request waits until it may be tried: pauses grow with its failures, and during an outage with
    those of all requests together. A loop that asks again after an error therefore needs no delays
    of its own, and the API server's refusals and outages are logged already.
    """

    #: The name of the Node.
    node: str

    async def may_ask(self) -> None:
        """Wait for the end of the pause of an outage: compute what to send after it, not before."""

    async def get_node(self) -> Node:
        """Read the whole Node. Refused with 404 if there is none of this name."""

    async def patch_metadata(
        self,
        current: NodeMetadata,
        *,
        labels: Changes | None = None,
        annotations: Changes | None = None,
        conditional: bool = False,
    ) -> NodeMetadata:
        """Set and remove labels and annotations of the Node where they differ from `current`; no
        difference, no request. Returns the new metadata.

        `conditional` refuses the patch (409) if the Node has changed since `current`.
        """

    async def put_condition(self, condition: NodeCondition) -> None:
        """Add the condition to the Node's status, or replace that of its type."""

    async def remove_condition(self, kind: str) -> None:
        """Remove the condition of this type from the Node's status."""

    async def put_taints(
        self, current: Node, taints: tuple[Taint, ...], annotations: Changes | None = None
    ) -> NodeMetadata:
        """Replace all taints of the Node, and change annotations in the same request; no
        difference, no request. Refused (409) if the Node has changed since `current`.
        """

    async def create_event(self, event: Event) -> None:
        """Create the Event; one that exists already under its name is a success."""

    async def repeat_event(self, event: Event, count: int, last: float) -> bool:
        """Say that `event` happened `count` times (at least 2) up to `last`, in seconds of the wall
        clock. False if it has expired: create another.
        """

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        """The pod of this name, if it is bound to this node."""

    async def evict(self, pod: Pod, grace_seconds: int | None = None) -> Eviction:
        """Ask for the eviction of exactly this pod, by its UID."""

    def watch_node(self) -> Watched[NodeMetadata]:
        """The Node's metadata, under the Node's name."""

    def watch_pods(self) -> Watched[Pod]:
        """The pods bound to this node, by UID."""
