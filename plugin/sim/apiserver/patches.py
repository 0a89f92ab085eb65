"""The kinds of patch. Each returns a new object and shares what is unchanged with the old one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugin.sim.apiserver.refusal import Refused

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
KINDS = (JSON_PATCH, MERGE, STRATEGIC, APPLY)

#: Lists that a strategic patch merges, with the key of their items (patchMergeKey).
MERGE_KEYS = {"conditions": "type", "taints": "key", "addresses": "type", "ownerReferences": "uid"}


def merge(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(old: Any, patch: Any) -> Any:
    """A strategic merge patch: as `merge`, but some lists merge by key, and ``$patch`` directs."""
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, list) and key in MERGE_KEYS:
            merged[key] = _by_key(merged.get(key) or [], value, MERGE_KEYS[key])
        else:
            merged[key] = strategic(merged.get(key), value)
    return merged


def _by_key(old: list[Any], patch: list[Any], name: str) -> list[Any]:
    if any(isinstance(item, dict) and item == {"$patch": "replace"} for item in patch):
        return [item for item in patch if item != {"$patch": "replace"}]
    items = {item.get(name): item for item in old}
    for item in patch:
        if not isinstance(item, dict) or name not in item:
            raise Refused(
                400, f"map: {item} does not contain declared merge key: {name}", reason="BadRequest"
            )
        if item.get("$patch") == "delete":
            items.pop(item[name], None)
        else:
            items[item[name]] = strategic(items.get(item[name]), item)
    return list(items.values())


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902. A failed operation is 422 without details."""
    if not isinstance(operations, list):
        raise Refused(400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    for operation in operations:
        if not isinstance(operation, dict):
            raise Refused(400, "json: cannot unmarshal into Go value of type jsonpatch.Operation")
        try:
            document = _operated(document, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise Refused(
                422, "the server rejected our request due to an error in our request"
            ) from None
    return document


def _operated(document: Any, operation: Mapping[str, Any]) -> Any:
    path = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _added(document, path, operation["value"])
        case "remove":
            return _removed(document, path)
        case "replace":
            _found(document, path)
            return _added(_removed(document, path), path, operation["value"])
        case "test":
            if _found(document, path) != operation["value"]:
                raise ValueError("test failed")
            return document
        case "copy":
            return _added(document, path, _found(document, _pointer(operation["from"])))
        case "move":
            source = _pointer(operation["from"])
            return _added(_removed(document, source), path, _found(document, source))
        case unknown:
            raise ValueError(unknown)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _found(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _added(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(document, list):
        index = len(document) if first == "-" else int(first)
        if rest:
            return [*document[:index], _added(document[index], rest, value), *document[index + 1 :]]
        if index > len(document):
            raise IndexError(index)
        return [*document[:index], value, *document[index:]]
    inner = _added(document[first], rest, value) if rest else value
    return {**document, first: inner}


def _removed(document: Any, path: list[str]) -> Any:
    first, rest = path[0], path[1:]
    if isinstance(document, list):
        index = int(first)
        kept = [_removed(document[index], rest)] if rest else []
        _ = document[index]
        return [*document[:index], *kept, *document[index + 1 :]]
    if rest:
        return {**document, first: _removed(document[first], rest)}
    _ = document[first]
    return {key: value for key, value in document.items() if key != first}
