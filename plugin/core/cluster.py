"""Objects of the Kubernetes API, as far as this node's daemon reads or writes them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from msgspec import Struct, field

T = TypeVar("T")

Labels = Mapping[str, str]

#: For a patch of metadata: key → value, or ``None`` to remove the key.
Changes = Mapping[str, str | None]


#: Of Events about objects without a namespace: the API accepts them in no other.
NODE_NAMESPACE = "default"
#: As many digits as a number of 64 bits has, which is all that the API makes.
_MOST_DIGITS = 20


def number(text: str) -> int | None:
    """A number that the API wrote as text; ``None`` for all else, as an edit may have left it."""
    good = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if good else None


def _none() -> Labels:
    return MappingProxyType({})


def _nobody() -> Mapping[str, frozenset[str]]:
    return MappingProxyType({})


class NodeMetadata(Struct, frozen=True):
    """The Node without spec and status. Every change of the Node changes ``version``; two values
    are equal if the rest is.
    """

    name: str
    uid: str
    version: str  # resourceVersion
    labels: Labels = field(default_factory=_none)
    annotations: Labels = field(default_factory=_none)
    #: By label: names of the managers that have written its value.
    writers: Mapping[str, frozenset[str]] = field(default_factory=_nobody)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeMetadata) and self._compared == other._compared

    def __hash__(self) -> int:
        return hash((self.name, self.uid))

    @property
    def _compared(self) -> tuple[object, ...]:
        return self.name, self.uid, self.labels, self.annotations, self.writers


class TaintEffect(enum.StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Taint(Struct, frozen=True):
    """``added`` is RFC 3339 text as the API server sent it; only NoExecute taints have it."""

    key: str
    effect: TaintEffect | str  # an effect that we do not know is kept as it is
    value: str = ""
    added: str = ""


class ConditionStatus(enum.StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class NodeCondition(Struct, frozen=True):
    """Times are seconds of the wall clock; ``reason`` is CamelCase."""

    type: str
    status: ConditionStatus
    reason: str
    message: str
    heartbeat: float
    transition: float


class Node(Struct, frozen=True):
    """The whole Node: what is written conditionally needs its version."""

    metadata: NodeMetadata
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()
    conditions: tuple[NodeCondition, ...] = ()


class PodPhase(enum.StrEnum):
    """Of a pod's life. Kubelet stops restarting containers in the last two."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class Pod(Struct, frozen=True):
    """A pod bound to this node. ``controller`` is the kind of the owner that would replace it, such
    as ReplicaSet or DaemonSet; empty without one.
    """

    namespace: str
    name: str
    uid: str
    phase: PodPhase = PodPhase.UNKNOWN
    labels: Labels = field(default_factory=_none)
    controller: str = ""
    mirror: bool = False  # the API's picture of a static pod
    deleting: bool = False

    def __hash__(self) -> int:
        return hash((self.namespace, self.name, self.uid))

    @property
    def finished(self) -> bool:
        """Its containers will not run again, so it holds no device."""
        return self.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}

    @property
    def returns(self) -> bool:
        """Evicting it is of no use: it would come back to this node at once."""
        return self.mirror or self.controller in {"DaemonSet", "Node"}


class Subject(Struct, frozen=True):
    """The object an Event is about; ``namespace`` is empty for a Node."""

    kind: str
    name: str
    uid: str
    namespace: str = ""

    @classmethod
    def of_node(cls, node: NodeMetadata) -> Subject:
        return cls("Node", node.name, node.uid)

    @classmethod
    def of_pod(cls, pod: Pod) -> Subject:
        return cls("Pod", pod.name, pod.uid, pod.namespace)

    @property
    def event_namespace(self) -> str:
        return self.namespace or NODE_NAMESPACE


class EventType(enum.StrEnum):
    """How an Event is shown."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Event(Struct, frozen=True):
    """An Event of events.k8s.io/v1. ``name`` is unique in its namespace; ``time`` is seconds of the
    wall clock; ``reason`` and ``action`` are CamelCase.
    """

    name: str
    subject: Subject
    type: EventType
    reason: str
    action: str
    note: str
    time: float


class Evicted(enum.StrEnum):
    """What became of a request to evict a pod."""

    BEGUN = "begun"  # it is being deleted; it is gone once its watch says so
    GONE = "gone"  # no such pod, or another one under its name
    BUDGET_SPENT = "budget-spent"  # its disruption budget allows none now: ask again later
    NEVER = "never"  # several budgets match the pod: the API never evicts it
    FORBIDDEN = "forbidden"  # we may not, or its budget's bookkeeping is broken


class Eviction(Struct, frozen=True):
    """``retry_after`` is in seconds, where the API server named a time. ``detail`` is its sentence,
    for people.
    """

    outcome: Evicted
    retry_after: float | None = None
    detail: str = ""


class Collection(Struct, Generic[T], frozen=True):
    """What a watch knows of a collection, by key.

    ``generation`` grows with each change. ``synced`` is false until the first list: an empty
    collection then means nothing. ``live`` is false while no watch is open: the items are those of
    the last contact, and an absence is not certain.
    """

    items: Mapping[str, T] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0
    synced: bool = False
    live: bool = False
