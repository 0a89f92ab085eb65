"""JSON of the Kubernetes API from and to values. Reading takes what it finds: a field of another
type counts as absent; a missing name, UID or version makes the answer invalid.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from plugin.cluster.failures import InvalidAnswer
from plugin.core.cluster import (
    Changes,
    ConditionStatus,
    Event,
    Labels,
    Node,
    NodeCondition,
    NodeMetadata,
    Pod,
    PodPhase,
    Subject,
    Taint,
    TaintEffect,
)

Json = Mapping[str, Any]

#: Names our Events and fields; the API limits both to 128 characters.
CONTROLLER = "mig-device-plugin"
#: The API's limit of an Event's note in bytes.
NOTE_BYTES = 1024
_NAME_BYTES = 128
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 — UTC, as all times of the API
_MIRROR = "kubernetes.io/config.mirror"


# ---- reading


def _map(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> Labels:
    return MappingProxyType(
        {key: text for key, text in _map(value).items() if isinstance(text, str)}
    )


def version_of(document: Json) -> str:
    """The resourceVersion of an object or list."""
    found = _text(_map(document.get("metadata")).get("resourceVersion"))
    if not found:
        raise InvalidAnswer("an object without a resourceVersion")
    return found


def items(document: Json) -> list[Json]:
    """The objects of a list."""
    entries = document.get("items") or []
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise InvalidAnswer("its items are no list of objects")
    return entries


def _identity(document: Json) -> tuple[Json, str, str]:
    metadata = _map(document.get("metadata"))
    name, uid = _text(metadata.get("name")), _text(metadata.get("uid"))
    if not name or not uid:
        raise InvalidAnswer("an object without name or UID")
    return metadata, name, uid


def node_metadata(document: Json) -> NodeMetadata:
    metadata, name, uid = _identity(document)
    writers: dict[str, frozenset[str]] = {}
    for entry in map(_map, _list(metadata.get("managedFields"))):
        manager = _text(entry.get("manager"))
        if not manager:
            continue
        fields = _map(_map(entry.get("fieldsV1")).get("f:metadata"))
        for label in _map(fields.get("f:labels")):
            key = label.removeprefix("f:")
            writers[key] = writers.get(key, frozenset()) | {manager}
    return NodeMetadata(
        name,
        uid,
        version_of(document),
        _texts(metadata.get("labels")),
        _texts(metadata.get("annotations")),
        MappingProxyType(writers),
    )


def node(document: Json) -> Node:
    spec, status = _map(document.get("spec")), _map(document.get("status"))
    return Node(
        node_metadata(document),
        unschedulable=spec.get("unschedulable") is True,
        taints=tuple(
            Taint(
                _text(taint.get("key")),
                _member(TaintEffect, _text(taint.get("effect"))),
                _text(taint.get("value")),
                _text(taint.get("timeAdded")),
            )
            for taint in map(_map, _list(spec.get("taints")))
        ),
        conditions=tuple(
            NodeCondition(
                _text(found.get("type")),
                ConditionStatus(_text(found.get("status"))),
                _text(found.get("reason")),
                _text(found.get("message")),
                seconds_of(_text(found.get("lastHeartbeatTime"))),
                seconds_of(_text(found.get("lastTransitionTime"))),
            )
            for found in map(_map, _list(status.get("conditions")))
            if _text(found.get("status")) in set(ConditionStatus)
        ),
    )


def _member(kind: type[TaintEffect], text: str) -> TaintEffect | str:
    return kind(text) if text in set(kind) else text


def pod(document: Json) -> Pod:
    metadata, name, uid = _identity(document)
    namespace = _text(metadata.get("namespace"))
    if not namespace:
        raise InvalidAnswer("a pod without a namespace")
    phase = _text(_map(document.get("status")).get("phase"))
    owners = map(_map, _list(metadata.get("ownerReferences")))
    return Pod(
        namespace,
        name,
        uid,
        PodPhase(phase) if phase in set(PodPhase) else PodPhase.UNKNOWN,
        _texts(metadata.get("labels")),
        next((_text(owner.get("kind")) for owner in owners if owner.get("controller") is True), ""),
        mirror=_MIRROR in _map(metadata.get("annotations")),
        deleting="deletionTimestamp" in metadata,
    )


_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?Z", re.ASCII)


def seconds_of(text: str) -> float:
    """Seconds of the wall clock of a time of the API; 0 for what is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0.0
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    try:
        moment = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError:
        return 0.0
    return moment.timestamp() + float(match[7] or 0)


# ---- writing


def time_text(seconds: float) -> str:
    """``metav1.Time``."""
    return f"{_moment(int(seconds // 1)).isoformat()}Z"


def micro_time_text(seconds: float) -> str:
    """``metav1.MicroTime``."""
    return f"{_moment(seconds).isoformat(timespec='microseconds')}Z"


def _moment(seconds: float) -> dt.datetime:
    # Not by strftime, which writes the year 1 of Go's zero time without its zeros.
    return _EPOCH + dt.timedelta(microseconds=round(seconds * 1_000_000))


def differing(current: Labels, wanted: Changes) -> dict[str, str | None]:
    """The part of `wanted` that `current` does not have."""
    return {key: value for key, value in sorted(wanted.items()) if current.get(key) != value}


def metadata_patch(
    current: NodeMetadata, labels: Changes, annotations: Changes, *, conditional: bool
) -> dict[str, Any] | None:
    """A merge patch; ``None`` if nothing differs."""
    parts = {
        "labels": differing(current.labels, labels),
        "annotations": differing(current.annotations, annotations),
    }
    metadata: dict[str, Any] = {key: part for key, part in parts.items() if part}
    if not metadata:
        return None
    if conditional:
        metadata["resourceVersion"] = current.version
    return {"metadata": metadata}


def condition_patch(condition: NodeCondition) -> dict[str, Any]:
    """A strategic merge patch of nodes/status: conditions merge by type."""
    return {
        "status": {
            "conditions": [
                {
                    "type": condition.type,
                    "status": condition.status.value,
                    "reason": condition.reason,
                    "message": condition.message,
                    "lastHeartbeatTime": time_text(condition.heartbeat),
                    "lastTransitionTime": time_text(condition.transition),
                }
            ]
        }
    }


def condition_removal(kind: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"$patch": "delete", "type": kind}]}}


def taints_patch(
    current: Node, taints: tuple[Taint, ...], annotations: Changes
) -> dict[str, Any] | None:
    """A merge patch of all taints, for this version of the Node only; ``None`` if nothing
    differs.
    """
    notes = differing(current.metadata.annotations, annotations)
    if taints == current.taints and not notes:
        return None
    metadata: dict[str, Any] = {"resourceVersion": current.metadata.version}
    patch: dict[str, Any] = {"metadata": metadata | ({"annotations": notes} if notes else {})}
    if taints != current.taints:
        patch["spec"] = {"taints": list(map(_taint_entry, taints)) or None}
    return patch


def _taint_entry(taint: Taint) -> dict[str, str]:
    entry = {"key": taint.key, "value": taint.value, "effect": str(taint.effect)}
    if taint.added:
        entry["timeAdded"] = taint.added
    return {name: value for name, value in entry.items() if value}


def event(happened: Event, instance: str) -> dict[str, Any]:
    """An Event; `instance` names this daemon, as by its node."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": happened.name, "namespace": happened.subject.event_namespace},
        "eventTime": micro_time_text(happened.time),
        "reportingController": CONTROLLER,
        "reportingInstance": clipped(instance, _NAME_BYTES),
        "action": happened.action,
        "reason": happened.reason,
        "regarding": _reference(happened.subject),
        "note": clipped(happened.note, NOTE_BYTES),
        "type": happened.type.value,
    }


def _reference(subject: Subject) -> dict[str, str]:
    reference = {"apiVersion": "v1", "kind": subject.kind, "name": subject.name, "uid": subject.uid}
    return reference | ({"namespace": subject.namespace} if subject.namespace else {})


def series_patch(count: int, last: float) -> dict[str, Any]:
    return {"series": {"count": count, "lastObservedTime": micro_time_text(last)}}


def eviction(evicted: Pod, grace_seconds: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {"preconditions": {"uid": evicted.uid}}
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": evicted.name, "namespace": evicted.namespace},
        "deleteOptions": options,
    }


def clipped(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, cut between characters and marked as cut."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    mark = "…"
    return raw[: limit - len(mark.encode())].decode("utf-8", "ignore") + mark
