"""What the API server checks in metadata and Nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from plugin.sim.apiserver.refusal import Refused, invalid

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII
)
_SUBDOMAIN_CHARACTERS = 253
_ANNOTATIONS_BYTES = 256 * 1024
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def is_subdomain(text: str) -> bool:
    """RFC 1123."""
    return len(text) <= _SUBDOMAIN_CHARACTERS and _SUBDOMAIN.fullmatch(text) is not None


def is_qualified(key: str) -> bool:
    """A key of labels and annotations: ``[domain/]name``."""
    prefix, slash, name = key.rpartition("/")
    return _NAME.fullmatch(name) is not None and (is_subdomain(prefix) if slash else True)


def is_label_value(value: str) -> bool:
    return value == "" or _NAME.fullmatch(value) is not None


def check_metadata(what: str, metadata: Mapping[str, Any]) -> None:
    """400 for a value of another type, 422 for an invalid one."""
    for field in ("labels", "annotations"):
        entries = metadata.get(field)
        if entries is None:
            continue
        if not isinstance(entries, dict) or any(not isinstance(v, str) for v in entries.values()):
            raise Refused(
                400,
                "json: cannot unmarshal value into Go struct field "
                f"ObjectMeta.metadata.{field} of type string",
            )
    for key, value in (metadata.get("labels") or {}).items():
        if not is_qualified(key):
            raise invalid(
                what, "metadata.labels", f'Invalid value: "{key}": name part must consist'
            )
        if not is_label_value(value):
            raise invalid(
                what, "metadata.labels", f'Invalid value: "{value}": a valid label must be'
            )
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        # Checked in lower case, unlike labels.
        if not is_qualified(key.lower()):
            raise invalid(what, "metadata.annotations", f'Invalid value: "{key}"')
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > _ANNOTATIONS_BYTES:
        raise invalid(what, "metadata.annotations", "Too long: may not be more than 262144 bytes")


def _check_taints(what: str, taints: list[dict[str, str]]) -> None:
    seen = set()
    for index, taint in enumerate(taints):
        field = f"metadata.taints[{index}]"
        if not is_qualified(taint.get("key", "")):
            raise invalid(what, f"{field}.key", f'Invalid value: "{taint.get("key", "")}"')
        if not is_label_value(taint.get("value", "")):
            raise invalid(what, f"{field}.value", f'Invalid value: "{taint.get("value")}"')
        if taint.get("effect") not in _EFFECTS:
            raise invalid(what, f"{field}.effect", f'Unsupported value: "{taint.get("effect")}"')
        identity = taint["key"], taint["effect"]
        if identity in seen:
            raise invalid(
                what, f"{field}", "Duplicate value: taints must be unique by key and effect"
            )
        seen.add(identity)


def check_node(name: str, node: Mapping[str, Any]) -> None:
    """Metadata, taints, and the types of what we write."""
    what = f'Node "{name}"'
    if not isinstance((node.get("spec") or {}).get("unschedulable") or False, bool):
        raise Refused(400, "json: cannot unmarshal NodeSpec.unschedulable")
    check_metadata(what, node.get("metadata") or {})
    _check_taints(what, (node.get("spec") or {}).get("taints") or [])
    for condition in (node.get("status") or {}).get("conditions") or []:
        for key, value in condition.items():
            if not isinstance(value, str):
                raise Refused(400, f"json: cannot unmarshal NodeCondition.{key}")
        for key in ("lastHeartbeatTime", "lastTransitionTime"):
            if key in condition:
                check_time(condition[key], TIME)


#: ``metav1.Time``: RFC 3339.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
#: ``metav1.MicroTime``: exactly six digits of a second.
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)", re.ASCII)


def check_time(value: object, kind: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not kind.fullmatch(value):
        raise Refused(400, f'parsing time "{value}": cannot parse')


def check_unchanged(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], is_free: Callable[[str], bool]
) -> None:
    """422 for a field that must stay as it is."""
    for field in sorted(old.keys() | new.keys()):
        if not is_free(field) and old.get(field) != new.get(field):
            raise invalid(what, field, "Invalid value: field is immutable")
