"""Checks a CDI specification: its form, by the schema and by rules that no schema can say, and the
files that it names.
"""

from __future__ import annotations

import enum
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import fastjsonschema

from plugin.core.cdi.specification import FORBIDDEN_NODES, needed_version


class Found(enum.Enum):
    """What is at a path of the host."""

    NOTHING = enum.auto()
    DEVICE = enum.auto()
    OTHER = enum.auto()


Lookup = Callable[[str], Found]


@functools.cache
def _schema() -> Callable[[object], object]:
    text = resources.files("plugin.cdi").joinpath("schema.json").read_text(encoding="utf-8")
    compiled: Callable[[object], object] = fastjsonschema.compile(json.loads(text))
    return compiled


def faults(document: Any, lookup: Lookup) -> Iterator[str]:
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
    parts = list(_edits(document))
    nodes = [node for part in parts for node in part.get("deviceNodes", ())]
    yield from dict.fromkeys(text for node in nodes for text in _node_faults(node, lookup))
    paths = dict.fromkeys(path for part in parts for path in _host_paths(part))
    yield from (f"{path} does not exist" for path in paths if lookup(path) is Found.NOTHING)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _edits(document: Any) -> Iterator[Any]:
    yield document.get("containerEdits", {})
    yield from (device["containerEdits"] for device in document["devices"])


def _node_faults(node: Any, lookup: Lookup) -> Iterator[str]:
    on_host = node.get("hostPath", node["path"])
    for path, capability in FORBIDDEN_NODES.items():
        if node["path"].endswith(path) or on_host.endswith(path):
            yield (
                f"{on_host} is the capability {capability}, which reaches into the whole node and "
                "is no container's"
            )
    # With numbers the runtime makes the node, whatever there is on the host.
    if "type" in node and "major" in node:
        return
    found = lookup(on_host)
    if found is Found.NOTHING:
        yield f"{on_host} does not exist"
    elif found is Found.OTHER and node.get("type") != "p":
        yield f"{on_host} is no device node"


def _host_paths(edits: Any) -> Iterator[str]:
    yield from (mount["hostPath"] for mount in edits.get("mounts", ()))
    yield from (hook["path"] for hook in edits.get("hooks", ()))
