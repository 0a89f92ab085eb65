"""What the cluster should be told of partitioning: notices from how far it was and how far it is.

They go the way of :mod:`plugin.core.notices`. Progress that nobody saw in between is left out:
what is told is how things stand now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from plugin.core.notices import MOST_BYTES, Kind, Notice, Pod
from plugin.core.partition.order import Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import GpuProgress, GpuState, Progress, State
from plugin.core.partition.steps import Blocker
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.quote import shorten_bytes

_SOURCES: Final[Mapping[Source | None, str]] = {
    Source.LABEL: "the Node's label",
    Source.COMMAND: "a command",
    Source.OPTION: "--partition-config",
}
_WAITING: Final = "PartitioningWaiting"
#: Of the node as a whole, while no GPU says so. Without the driver there is an Event of its own.
_NODE_WAITS: Final = frozenset(
    {Code.BUSY, Code.NOT_SAVED, Code.NOT_ANSWERING, Code.KUBELET_NOT_TOLD}
)
#: Ends of a GPU that somebody has to look at.
_BAD: Final = frozenset({GpuState.FAILED, GpuState.REFUSED})
#: A further attempt is no other start.
_TRYING: Final = frozenset({GpuState.APPLYING, GpuState.RETRYING, GpuState.ROLLING_BACK})


def causes(old: Progress, new: Progress) -> tuple[Notice, ...]:
    """What is new between two values of progress. The first old one of a process is ``IDLE``: what
    was applied before it started is no news.
    """
    return tuple(_Change(old, new).all())


def unknown(name: str, trouble: Trouble) -> Notice:
    """Of a name that no configuration has; ``trouble`` lists the choices."""
    text = f"{name} is not applied: {trouble.text}"
    topic = f"UnknownMigConfiguration/{name}"
    return _of_node(Kind.WARNING, "UnknownMigConfiguration", text, "Refuse", topic)


def evicted(pod: str) -> Notice:
    """Of a pod (``namespace/name``) whose eviction has begun."""
    text = "evicted: it holds devices in the way of the MIG configuration that is wanted"
    reason = "EvictedForPartitioning"
    return Notice(_pod(pod), Kind.WARNING, reason, text, "Evict", reason, "partition")


class _Change:
    """The difference between two values of progress."""

    def __init__(self, old: Progress, new: Progress) -> None:
        self._old, self._new, self._name = old, new, new.configuration
        same = old.order == new.order
        #: What was known of each GPU under this order.
        self._before = {gpu.uuid: gpu for gpu in old.gpus} if same else {}

    def all(self) -> Iterator[Notice]:
        new, trouble = self._new, self._new.trouble
        if new.state is State.IDLE:
            return
        yield from self._begun()
        yield from self._waits()
        yield from self._rolled_back()
        reset = [gpu for gpu in new.gpus if gpu.state is GpuState.RESET_NEEDED]
        yield from self._ends(reset, "PartitioningNeedsReset", "waits for a reset")
        bad = [gpu for gpu in new.gpus if gpu.state in _BAD and not _unknown_holders(gpu)]
        yield from self._ends(bad, "PartitioningFailed", "is not applied")
        if trouble is not None and not new.gpus and self._is_new(State.FAILED):
            yield unknown(self._name, trouble)
        if self._is_new(State.SUCCESS) and self._changed:
            text = f"{self._name} is applied to GPU {_indices(new.gpus)}"
            yield self._node(Kind.NORMAL, "PartitioningSucceeded", text, "Advertise")

    def _is_new(self, state: State) -> bool:
        old, new = self._old, self._new
        return new.state is state and (old.state, old.order) != (state, new.order)

    @property
    def _changed(self) -> bool:
        """Whether something was done, or ordered while this process ran."""
        if self._before:
            return any(gpu.state is not GpuState.APPLIED for gpu in self._before.values())
        return bool(self._old.order or self._new.counts.steps)

    def _was(self, gpu: GpuProgress) -> GpuState | None:
        before = self._before.get(gpu.uuid)
        return before.state if before is not None else None

    # ---- under way

    def _begun(self) -> Iterator[Notice]:
        going = [gpu for gpu in self._new.gpus if gpu.state is GpuState.APPLYING]
        if any(self._was(gpu) is GpuState.APPLYING for gpu in self._new.gpus):
            fresh = []  # they follow one upon the other
        else:
            fresh = [gpu for gpu in going if self._was(gpu) not in _TRYING]
        if fresh:
            states = {GpuState.APPLYING, GpuState.PENDING}
            named = _indices(gpu for gpu in self._new.gpus if gpu.state in states)
            by = _SOURCES.get(self._new.source, "an order")
            text = f"{self._name}, wanted by {by}, is being applied to GPU {named}"
            yield self._node(Kind.NORMAL, "PartitioningStarted", text, "Partition", also=named)
        if self._new.policy is Policy.FORCE:
            starting = (gpu for gpu in going if self._was(gpu) is not GpuState.APPLYING)
            yield from self._forced([each for gpu in starting for each in gpu.blockers])

    def _forced(self, blockers: list[Blocker]) -> Iterator[Notice]:
        if not blockers:
            return
        reason, by = "DestroyedByPartitioning", "because of --partition-in-use=force"
        text = f"{self._name} destroys devices in use {by}: {_held(blockers)}"
        yield self._node(Kind.WARNING, reason, text, "Destroy", also=_uuids(blockers))
        for pod, held in _by_pod(blockers).items():
            for each in held:
                text = (
                    f"{_device(each)}, which this pod holds, is destroyed for {self._name} {by}; "
                    "start the pod anew"
                )
                message = shorten_bytes(text, MOST_BYTES)
                # That it is gone then tells the same.
                yield Notice(
                    _pod(pod),
                    Kind.WARNING,
                    reason,
                    message,
                    "Destroy",
                    f"{reason}/{each.uuid}",
                    f"health/{each.uuid}",
                )

    def _waits(self) -> Iterator[Notice]:
        new = self._new
        waiting = [gpu for gpu in new.gpus if _waits(gpu)]
        fresh = [gpu for gpu in waiting if not _needs(gpu) <= _needs(self._before.get(gpu.uuid))]
        if fresh:
            text = f"{self._name} waits: {_texts(waiting)}"
            also = ",".join(sorted({need for gpu in waiting for need in _needs(gpu)}))
            yield self._node(Kind.NORMAL, _WAITING, text, "Wait", also=also)
            yield from self._pods_in_the_way(waiting)
        trouble, known = new.trouble, (self._old.trouble, self._old.order)
        if (
            trouble is not None
            and trouble.code in _NODE_WAITS
            and (trouble, new.order) != known
            and new.state in {State.PENDING, State.WAITING}
        ):
            text = f"{self._name or 'what is wanted'} waits: {trouble.text}"
            yield self._node(Kind.WARNING, _WAITING, text, "Wait", also=trouble.code)

    def _pods_in_the_way(self, waiting: list[GpuProgress]) -> Iterator[Notice]:
        before = _by_pod(each for gpu in self._before.values() for each in gpu.blockers)
        if self._new.policy is Policy.EVICT:
            then = "the daemon asks for its eviction, unless it would return at once"
        else:
            then = "that waits for the pod to end"
        for pod, held in _by_pod(each for gpu in waiting for each in gpu.blockers).items():
            known = {each.uuid for each in before.get(pod, ())}
            if not {each.uuid for each in held} <= known:
                devices = ", ".join(map(_device, held))
                text = f"This pod holds {devices}, in the way of {self._name}; {then}"
                message = shorten_bytes(text, MOST_BYTES)
                cause = f"{_WAITING}/{self._name}"
                yield Notice(_pod(pod), Kind.NORMAL, _WAITING, message, "Wait", cause, "partition")

    # ---- what became of GPUs

    def _rolled_back(self) -> Iterator[Notice]:
        """For good, or until the next attempt."""
        ended = [gpu for gpu in self._new.gpus if gpu.state is GpuState.ROLLED_BACK]
        if self._new.counts.rolled_back > self._old.counts.rolled_back:
            ways = {GpuState.APPLYING, GpuState.ROLLING_BACK}
            ended += [
                gpu
                for gpu in self._new.gpus
                if gpu.state is GpuState.WAITING and self._was(gpu) in ways
            ]
        reason, what = "PartitioningRolledBack", "is not applied, the last good geometry is back"
        yield from self._ends(ended, reason, what)

    def _ends(self, gpus: list[GpuProgress], reason: str, what: str) -> Iterator[Notice]:
        """One for all GPUs that have come to the same end."""
        if all((self._was(gpu), self._code(gpu)) == (gpu.state, _code(gpu)) for gpu in gpus):
            return
        also = ",".join(f"{gpu.uuid} {_code(gpu)}" for gpu in gpus)
        text = f"{self._name} {what}: {_texts(gpus)}"
        yield self._node(Kind.WARNING, reason, text, "Partition", also=also, topic=reason)

    def _code(self, gpu: GpuProgress) -> str:
        before = self._before.get(gpu.uuid)
        return _code(before) if before is not None else ""

    def _node(
        self,
        kind: Kind,
        reason: str,
        text: str,
        action: str,
        *,
        also: str = "",
        topic: str = "progress",
    ) -> Notice:
        """``also`` is what distinguishes this cause from others of the configuration."""
        cause = f"{reason}/{self._name}/{also}"
        return _of_node(kind, reason, text, action, cause, f"partition/{topic}")


def _of_node(
    kind: Kind, reason: str, text: str, action: str, cause: str, topic: str = "partition/name"
) -> Notice:
    return Notice(None, kind, reason, shorten_bytes(text, MOST_BYTES), action, cause, topic)


def _pod(name: str) -> Pod:
    namespace, _, pod = name.partition("/")
    return Pod(namespace, pod)


def _code(gpu: GpuProgress) -> str:
    return gpu.trouble.code.value if gpu.trouble is not None else ""


def _unknown_holders(gpu: GpuProgress) -> bool:
    """It waits, whatever the policy."""
    return gpu.trouble is not None and gpu.trouble.code is Code.HOLDERS_UNKNOWN


def _waits(gpu: GpuProgress) -> bool:
    unknown_holders = gpu.state is GpuState.REFUSED and _unknown_holders(gpu)
    return gpu.state is GpuState.WAITING or unknown_holders


def _needs(gpu: GpuProgress | None) -> frozenset[str]:
    """What it waits for. Processes come and go while the device stays in use."""
    if gpu is None or not _waits(gpu):
        return frozenset()
    found = {
        f"{each.uuid} {name}"
        for each in gpu.blockers
        for name in ("", *(holder.name for holder in each.holders if holder.pod))
    }
    return frozenset(found or {f"{gpu.uuid} {_code(gpu)}"})


def _by_pod(blockers: Iterable[Blocker]) -> dict[str, list[Blocker]]:
    found: dict[str, list[Blocker]] = {}
    for each in blockers:
        for name in dict.fromkeys(holder.name for holder in each.holders if holder.pod):
            found.setdefault(name, []).append(each)
    return dict(sorted(found.items()))


def _device(blocker: Blocker) -> str:
    kind = "MIG device" if ":" in blocker.path else "GPU"
    return f"{kind} {blocker.path} ({blocker.uuid})"


def _held(blockers: Iterable[Blocker]) -> str:
    return "; ".join(map(str, blockers))


def _uuids(blockers: Iterable[Blocker]) -> str:
    return ",".join(each.uuid for each in blockers)


def _indices(gpus: Iterable[GpuProgress]) -> str:
    return ", ".join(str(gpu.index) for gpu in gpus)


def _texts(gpus: Iterable[GpuProgress]) -> str:
    """Why, for each GPU; a text names its GPU."""
    found = (
        gpu.trouble.text if gpu.trouble is not None else f"GPU {gpu.index}: {gpu.state.value}"
        for gpu in gpus
    )
    return "; ".join(dict.fromkeys(found))
