"""Checks a CDI specification: its form, by the schema and by rules that no schema can say, and the
files that it names.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import fastjsonschema

from plugin.core.cdi.specification import needed_version

#: Whether a path of the host is there.
Exists = Callable[[str], bool]


@functools.cache
def _schema() -> Callable[[object], object]:
    text = resources.files("plugin.cdi").joinpath("schema.json").read_text(encoding="utf-8")
    compiled: Callable[[object], object] = fastjsonschema.compile(json.loads(text))
    return compiled


def faults(document: Any, exists: Exists) -> Iterator[str]:
    """One sentence for each thing that is wrong."""
    try:
        _schema()(document)
    except fastjsonschema.JsonSchemaValueException as error:
        yield error.message.removeprefix("data.").removeprefix("data ")
        return  # nothing else can be asked of it
    version, needed = document["cdiVersion"], needed_version(document)
    if _numbers(version) < _numbers(needed):
        yield f"cdiVersion {version} is too low: the fields need {needed}"
    for name, count in Counter(device["name"] for device in document["devices"]).items():
        if count > 1:
            yield f"device {name} is there {count} times"
    paths = dict.fromkeys(path for part in _edits(document) for path in _host_paths(part))
    yield from (f"{path} does not exist" for path in paths if not exists(path))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _edits(document: Any) -> Iterator[Any]:
    yield document.get("containerEdits", {})
    yield from (device["containerEdits"] for device in document["devices"])


def _host_paths(edits: Any) -> Iterator[str]:
    for node in edits.get("deviceNodes", ()):
        # With numbers the runtime makes the node, whatever there is on the host.
        if not ("type" in node and "major" in node):
            yield node.get("hostPath", node["path"])
    yield from (mount["hostPath"] for mount in edits.get("mounts", ()))
    yield from (hook["path"] for hook in edits.get("hooks", ()))
