"""Which labels of a Node are ours: what to write, what to remove, and what to leave to others.

A Node's labels have many writers. Ours are those that an annotation lists, which is written in one
request with them: so a later process, also one of another version, knows what to remove.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from plugin.core.cluster import Changes, NodeMetadata
from plugin.core.inventory.profiles import RESOURCE_PREFIX
from plugin.core.labels.grammar import is_ours
from plugin.core.labels.node import Values

#: Keys without their common prefix, separated by commas.
RECORD = "nvidia.com/mig-device-plugin.labels"
#: Where Node Feature Discovery lists what it has written; an instance's name may stand before it.
_FEATURE_LABELS = "nfd.node.kubernetes.io/feature-labels"


class Patch(Struct, frozen=True):
    """Changes of the Node; empty if there is nothing to do. ``left`` are wanted labels that Node
    Feature Discovery writes: two writers of one label would take turns for ever.
    """

    labels: Changes
    annotations: Changes
    left: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.annotations)

    def only(self, keys: Collection[str]) -> Patch:
        """The part of it that has these keys."""
        labels = {key: value for key, value in self.labels.items() if key in keys}
        notes = {key: value for key, value in self.annotations.items() if key in keys}
        return Patch(labels, notes, self.left)


def owned(node: NodeMetadata) -> Values:
    """Our labels that are on the Node."""
    recorded = _recorded(node)
    return {key: value for key, value in node.labels.items() if key in recorded}


def patch(node: NodeMetadata, wanted: Values) -> Patch:
    """What makes `wanted` of our labels on the Node."""
    theirs = _of_feature_discovery(node.annotations)
    ours = {key: value for key, value in wanted.items() if key not in theirs}
    gone = [key for key in owned(node) if key not in ours and key not in theirs]
    labels = {key: value for key, value in ours.items() if node.labels.get(key) != value}
    record = ",".join(key.removeprefix(RESOURCE_PREFIX) for key in sorted(ours)) or None
    return Patch(
        {**labels, **dict.fromkeys(gone)},
        {RECORD: record} if node.annotations.get(RECORD) != record else {},
        tuple(sorted(wanted.keys() & theirs)),
    )


def _recorded(node: NodeMetadata) -> frozenset[str]:
    # The annotation can be edited: nothing that is not ours is removed for it.
    names = node.annotations.get(RECORD, "").split(",")
    return frozenset(filter(is_ours, (f"{RESOURCE_PREFIX}{name}" for name in names)))


def _of_feature_discovery(annotations: Mapping[str, str]) -> frozenset[str]:
    lists: Iterable[str] = (
        value
        for key, value in annotations.items()
        if key == _FEATURE_LABELS or key.endswith(f".{_FEATURE_LABELS}")
    )
    return frozenset(name.strip() for text in lists for name in text.split(","))
