"""Which manager owns which field (managedFields), and server-side apply."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from plugin.sim.apiserver.refusal import Refused

#: A field as its steps: ``f:name``, or ``k:{"type":"X"}`` for an item of a list that is a map.
Path = tuple[str, ...]
Json = dict[str, Any]

#: Lists that are maps (x-kubernetes-list-map-keys), by name. Others are atomic.
_LIST_MAPS = {"conditions": "type", "addresses": "type"}
#: What nobody owns.
_NOT_OWNED = frozenset({"apiVersion", "kind"})
_IDENTITY = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "creationTimestamp", "managedFields"}
)


class Manager(Struct, frozen=True):
    """``operation`` is Apply or Update; the same name may be both."""

    name: str
    operation: str
    subresource: str = ""


Owners = dict[Manager, frozenset[Path]]


def leaves(document: Mapping[str, Any]) -> dict[Path, Any]:
    """Every field that can have an owner, with its value."""
    owned = {key: value for key, value in document.items() if key not in _NOT_OWNED}
    metadata = owned.get("metadata")
    if isinstance(metadata, dict):
        owned["metadata"] = {k: v for k, v in metadata.items() if k not in _IDENTITY}
    return dict(_leaves(owned, ()))


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, f"f:{key}"))
        return
    name = path[-1][2:] if path else ""
    if isinstance(value, list) and name in _LIST_MAPS:
        key = _LIST_MAPS[name]
        for item in value:
            step = "k:" + json.dumps({key: item.get(key)}, separators=(",", ":"))
            yield from _leaves(item, (*path, step))
        return
    yield path, value


def updated(owners: Owners, old: Json, new: Json, manager: Manager) -> Owners:
    """Owners after a write that is no apply: `manager` owns what it changed, alone."""
    before, after = leaves(old), leaves(new)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    gone = before.keys() - after.keys()
    result = {other: kept for other, fields in owners.items() if (kept := fields - changed - gone)}
    if changed:
        result[manager] = result.get(manager, frozenset()) | changed
    return result


def applied(
    owners: Owners, live: Json, body: Json, manager: Manager, *, force: bool
) -> tuple[Json, Owners]:
    """The object and owners after `manager` applied `body`. 409 names the others and the fields."""
    wanted, present = leaves(body), leaves(live)
    conflicts = [
        (other, path)
        for other, fields in owners.items()
        if other != manager
        for path in sorted(fields)
        if path in wanted and present.get(path) != wanted[path]
    ]
    if conflicts and not force:
        raise _conflict(conflicts)
    lost = {path for _, path in conflicts}
    result = {
        other: kept
        for other, fields in owners.items()
        if other != manager and (kept := fields - lost)
    }
    others = frozenset[Path]().union(*result.values()) if result else frozenset[Path]()
    document = live
    # The key of an item goes last: until then it says which item it is.
    for path in sorted(owners.get(manager, frozenset()) - wanted.keys() - others, key=_is_key):
        document = _without(document, path)
    for path, value in wanted.items():
        if present.get(path) != value or path not in present:
            document = _placed(document, path, value)
    if wanted:
        result[manager] = frozenset(wanted)
    return document, result


def _is_key(path: Path) -> bool:
    *_, item, name = ("", *path)
    return item.startswith("k:") and name[2:] in json.loads(item[2:])


def _conflict(conflicts: list[tuple[Manager, Path]]) -> Refused:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{other.name}"',
            "field": dotted(path),
        }
        for other, path in conflicts
    ]
    named = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    return Refused(
        409,
        f"Apply failed with {len(causes)} conflict{'s' * (len(causes) > 1)}: {named}",
        causes=causes,
    )


def dotted(path: Path) -> str:
    """As in messages: ``.metadata.labels.nvidia.com/x``."""
    text = ""
    for step in path:
        if step.startswith("k:"):
            (key, value), *_ = json.loads(step[2:]).items()
            text += f"[{key}={json.dumps(value)}]"
        else:
            text += f".{step[2:]}"
    return text


def _placed(document: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    if step.startswith("k:"):
        keys: Json = json.loads(step[2:])
        items = list(document or [])
        for index, item in enumerate(items):
            if keys.items() <= item.items():
                items[index] = _placed(item, rest, value)
                return items
        return [*items, _placed(keys, rest, value)]
    name = step[2:]
    inner = document.get(name) if isinstance(document, dict) else None
    return {**(document or {}), name: _placed(inner, rest, value)}


def _without(document: Any, path: Path) -> Any:
    """Remove a field; an item whose fields are all gone, and an empty map, go with it."""
    step, rest = path[0], path[1:]
    if step.startswith("k:"):
        keys: Json = json.loads(step[2:])
        kept = []
        for item in document or []:
            if not keys.items() <= item.items():
                kept.append(item)
            elif rest and (inner := _without(item, rest)):
                kept.append(inner)
        return kept
    name = step[2:]
    if not isinstance(document, dict) or name not in document:
        return document
    inner = _without(document[name], rest) if rest else None
    if inner:
        return {**document, name: inner}
    return {key: value for key, value in document.items() if key != name}


def managed_fields(owners: Owners, api_version: str, time: str) -> list[Json]:
    """As metadata shows them."""
    return [
        {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": api_version,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(fields),
        }
        | ({"subresource": manager.subresource} if manager.subresource else {})
        for manager, fields in owners.items()
    ]


def _tree(fields: frozenset[Path]) -> Json:
    tree: Json = {}
    for path in sorted(fields):
        at = tree
        for step in path:
            at = at.setdefault(step, {})
    return tree
