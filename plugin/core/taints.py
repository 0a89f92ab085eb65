"""The Node's taints to be: ours while it is due, and the startup taint until the node is ready."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from plugin.core import cluster
from plugin.core.cluster import Node
from plugin.core.condition import tainted
from plugin.core.grammars import TAINT, Taint
from plugin.core.state import Snapshot

#: The annotation that lists taints of ours, separated by commas.
RECORD = "nvidia.com/mig-device-plugin.taints"


class Taints(Struct, frozen=True):
    """``record`` is the annotation's value, ``None`` for none."""

    taints: tuple[cluster.Taint, ...]
    record: str | None


def recorded(annotations: cluster.Labels) -> frozenset[Taint]:
    """The taints that we have set; what cannot be read in the annotation is not ours."""
    found = set()
    for text in filter(None, annotations.get(RECORD, "").split(",")):
        try:
            found.add(TAINT.parse(text))
        except ValueError:
            continue
    return frozenset(found)


def planned(node: Node, wanted: Taint | None, startup: Taint | None) -> Taints:
    """With `wanted` and no other of ours, and without `startup`, whoever set that."""
    known = {_plain(taint): taint for taint in node.taints}
    taints, ours = tainted(tuple(known), wanted, recorded(node.metadata.annotations))
    kept = [taint for taint in taints if startup is None or not _same(taint, startup)]
    # What is there stays as it was read: with its time, and an effect that is not known here.
    return Taints(
        tuple(known.get(taint) or _written(taint) for taint in kept),
        ",".join(sorted(map(str, ours))) or None,
    )


def is_ready(snapshot: Snapshot, registered: Collection[str]) -> bool:
    """Whether kubelet has every resource; where there is none, whether the driver says so."""
    resources = snapshot.advertisement.resources
    if not snapshot.geometry or (not resources and snapshot.driver_error is not None):
        return False
    return resources.keys() <= set(registered)


def _same(taint: Taint, other: Taint) -> bool:
    return (taint.key, taint.effect) == (other.key, other.effect)


def _plain(taint: cluster.Taint) -> Taint:
    return Taint(taint.key, taint.value, str(taint.effect))


def _written(taint: Taint) -> cluster.Taint:
    return cluster.Taint(taint.key, taint.effect, taint.value)
