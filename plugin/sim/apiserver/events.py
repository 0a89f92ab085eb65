"""Events: one storage, two APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugin.sim.apiserver import validation
from plugin.sim.apiserver.refusal import Refused, invalid
from plugin.sim.apiserver.validation import MICRO_TIME, TIME, check_time

NEW, OLD = "events.k8s.io/v1", "v1"

#: Names in core/v1 ↔ in events.k8s.io/v1, which is what is stored.
_OLD_TO_NEW = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_NEW_TO_OLD = {new: old for old, new in _OLD_TO_NEW.items()}
_NOTE_BYTES = 1024
_TEXT_CHARACTERS = 128
_LEAST_SERIES = 2
#: Events about objects without a namespace.
_CLUSTER_NAMESPACES = ("default", "kube-system")


def stored(event: Mapping[str, Any], api: str) -> dict[str, Any]:
    """As it is stored."""
    names = _OLD_TO_NEW if api == OLD else {}
    return {names.get(key, key): value for key, value in event.items()} | {"apiVersion": NEW}


def shown(event: Mapping[str, Any], api: str) -> dict[str, Any]:
    """As `api` shows a stored one."""
    if api == NEW:
        return dict(event)
    return {_NEW_TO_OLD.get(key, key): value for key, value in event.items()} | {"apiVersion": OLD}


def check_created(event: Mapping[str, Any], api: str, namespace: str) -> None:
    """`event` in its stored form."""
    name = str((event.get("metadata") or {}).get("name") or "")
    what = f'Event "{name}"'
    if not validation.is_subdomain(name):
        raise invalid(what, "metadata.name", f'Invalid value: "{name}"')
    validation.check_metadata(what, event.get("metadata") or {})
    _check_times(event)
    regarding = event.get("regarding") or {}
    about = regarding.get("namespace", "")
    if about != namespace and (about or namespace not in _CLUSTER_NAMESPACES):
        raise invalid(what, "involvedObject.namespace", f'Invalid value: "{about}": does not match')
    if api != NEW:
        return
    _check_new(what, event)


def _check_new(what: str, event: Mapping[str, Any]) -> None:
    if not event.get("eventTime"):
        raise invalid(what, "eventTime", "Required value")
    if not validation.is_qualified(str(event.get("reportingController") or "")):
        raise invalid(what, "reportingController", "Required value")
    for field in ("reportingInstance", "action", "reason"):
        text = event.get(field)
        if not text or not isinstance(text, str):
            raise invalid(what, field, "Required value")
        if len(text) > _TEXT_CHARACTERS:
            raise invalid(what, field, "can have at most 128 characters")
    if event.get("type") not in {"Normal", "Warning"}:
        raise invalid(what, "type", f'Invalid value: "{event.get("type")}"')
    if len(str(event.get("note") or "").encode()) > _NOTE_BYTES:
        raise invalid(what, "note", "can have at most 1024 bytes")
    for field in event:
        if field.startswith("deprecated"):
            raise invalid(what, field, "needs to be unset")
    _check_series(what, event)


def _check_series(what: str, event: Mapping[str, Any]) -> None:
    series = event.get("series")
    if series is None:
        return
    if series.get("count", 0) < _LEAST_SERIES:
        raise invalid(what, "series.count", "should be at least 2")
    if not series.get("lastObservedTime"):
        raise invalid(what, "series.lastObservedTime", "Required value")


def _check_times(event: Mapping[str, Any]) -> None:
    if event.get("eventTime") is not None:
        check_time(event["eventTime"], MICRO_TIME)
    for field in ("deprecatedFirstTimestamp", "deprecatedLastTimestamp"):
        if event.get(field) is not None:
            check_time(event[field], TIME)
    series = event.get("series")
    if series is None:
        return
    if not isinstance(series, dict) or not isinstance(series.get("count", 0), int):
        raise Refused(400, "json: cannot unmarshal into Go struct field Event.series")
    if series.get("lastObservedTime") is not None:
        check_time(series["lastObservedTime"], MICRO_TIME)


def check_updated(old: Mapping[str, Any], new: Mapping[str, Any], api: str) -> None:
    """An Event of the new API changes only in its series."""
    what = f'Event "{new["metadata"]["name"]}"'
    _check_times(new)
    if api != NEW:
        return
    validation.check_unchanged(what, old, new, lambda field: field in {"metadata", "series"})
    _check_series(what, new)
