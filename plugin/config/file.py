"""The configuration file: ``flags`` by their keys, and ``sharing``."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugin.config import document
from plugin.config.options import IGNORED_KEYS, OPTIONS, parse, refusal
from plugin.core.grammars import BOOLEAN
from plugin.core.inventory.profiles import RESOURCE_PREFIX
from plugin.core.quote import shorten
from plugin.core.settings import SharedResource, Sharing
from plugin.errors import ConfigError

#: (settings by field, sharing, warnings)
Contents = tuple[dict[str, object], Sharing, list[str]]


def read(path: Path) -> Contents:
    """Raises :class:`ConfigError`."""
    where = f"config file {shorten(str(path))}"
    return parse_document(where, document.read(where, path))


def parse_document(where: str, given: object) -> Contents:
    if not given:
        raise ConfigError(f"{where}: holds no settings; begin with 'version: v1'")
    sections = _mapping(where, "the whole document", given)
    version = sections.get("version")
    if version != "v1":
        raise refusal(f"{where}: version", version, "v1")
    warnings: list[str] = []
    _refuse_unknown(
        where, "", sections, {"version", "flags", "sharing", "resources", "imex", "health"}
    )
    warnings += [
        f"{where}: {key} has no effect here"
        for key in ("resources", "imex", "health")
        if sections.get(key)
    ]
    by_key = {option.key: option for option in OPTIONS if option.key}
    known = {*by_key, *IGNORED_KEYS}
    values: dict[str, object] = {}
    for key, value in _flatten(where, "flags", sections.get("flags")):
        if key in IGNORED_KEYS:
            warnings.append(f"{where}: flags.{key} has no effect: {IGNORED_KEYS[key]}")
        elif key not in by_key:
            raise _unknown(f"{where}: flags.", key, known)
        elif value is not None:
            values[by_key[key].field] = parse(by_key[key], f"{where}: flags.{key}", value)
    return values, _parse_sharing(where, sections.get("sharing"), warnings), warnings


def _flatten(where: str, name: str, value: object) -> list[tuple[str, object]]:
    """``flags`` as ``(dotted key, value)``; only ``plugin`` nests."""
    flags = _mapping(where, name, value)
    inner = _mapping(where, "flags.plugin", flags.get("plugin"))
    outer = [(key, item) for key, item in flags.items() if key != "plugin"]
    return outer + [(f"plugin.{key}", item) for key, item in inner.items()]


def _mapping(where: str, name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise refusal(f"{where}: {name}", value, "a mapping of names to values")
    return value


def _refuse_unknown(where: str, prefix: str, mapping: Mapping[str, Any], known: set[str]) -> None:
    for key in mapping:
        if key not in known:
            raise _unknown(f"{where}: {prefix}", key, known)


def _unknown(prefix: str, key: str, known: set[str]) -> ConfigError:
    key = shorten(key)
    close = difflib.get_close_matches(key, known, n=1)
    choices = ", ".join(sorted(known))
    suggestion = f"did you mean {close[0]}? The" if close else "the"
    return ConfigError(f"{prefix}{key} is not known; {suggestion} choices are {choices}")


def _parse_sharing(where: str, value: object, warnings: list[str]) -> Sharing:
    sharing = _mapping(where, "sharing", value)
    _refuse_unknown(where, "sharing.", sharing, {"timeSlicing", "mps"})
    if sharing.get("mps"):
        raise ConfigError(f"{where}: sharing.mps: MPS is not supported; choose sharing.timeSlicing")
    name = "sharing.timeSlicing"
    slicing = _mapping(where, name, sharing.get("timeSlicing"))
    _refuse_unknown(
        where, f"{name}.", slicing, {"renameByDefault", "failRequestsGreaterThanOne", "resources"}
    )
    entries = slicing.get("resources") or []
    if not isinstance(entries, list):
        raise refusal(f"{where}: {name}.resources", entries, "a list")
    resources = tuple(
        _parse_shared(where, f"{name}.resources[{number}]", entry)
        for number, entry in enumerate(entries)
    )
    for resource, times in Counter(entry.name for entry in resources).items():
        if times > 1:
            raise ConfigError(
                f"{where}: {name}.resources: {resource!r} is named twice; choose one entry for "
                "each resource"
            )
    if any(entry.replicas == 1 for entry in resources):
        warnings.append(f"{where}: {name}: one replica shares nothing")
    flags = {}
    for key in ("renameByDefault", "failRequestsGreaterThanOne"):
        try:
            flags[key] = slicing.get(key) is not None and BOOLEAN.parse(slicing[key])
        except ValueError:
            raise refusal(f"{where}: {name}.{key}", slicing[key], BOOLEAN.choices) from None
    return Sharing(resources, flags["renameByDefault"], flags["failRequestsGreaterThanOne"])


def _parse_shared(where: str, name: str, value: object) -> SharedResource:
    entry = _mapping(where, name, value)
    _refuse_unknown(where, f"{name}.", entry, {"name", "rename", "devices", "replicas"})
    resource, replicas, rename = entry.get("name"), entry.get("replicas"), entry.get("rename")
    if not _is_resource(resource):
        raise refusal(f"{where}: {name}.name", resource, f"{RESOURCE_PREFIX}<resource>")
    if rename is not None and not _is_resource(rename):
        raise refusal(f"{where}: {name}.rename", rename, f"{RESOURCE_PREFIX}<resource>")
    if (
        not isinstance(replicas, int)
        or isinstance(replicas, bool)
        or not 1 <= replicas <= _MAX_REPLICAS
    ):
        raise refusal(f"{where}: {name}.replicas", replicas, f"a number from 1 to {_MAX_REPLICAS}")
    return SharedResource(
        str(resource),
        replicas,
        rename,
        _parse_chosen(where, f"{name}.devices", entry.get("devices")),
    )


#: Kubelet still handles 7 MIG devices on 16 GPUs times this many ids well.
_MAX_REPLICAS = 256


#: Kubernetes' syntax of an extended resource's name.
_RESOURCE = re.compile(
    re.escape(RESOURCE_PREFIX) + r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)


def _is_resource(value: object) -> bool:
    return isinstance(value, str) and _RESOURCE.fullmatch(value) is not None


def _parse_chosen(where: str, name: str, value: object) -> int | tuple[str, ...] | None:
    match value:
        case None | "all":
            return None
        case bool():
            pass
        case int() if value > 0:
            return value
        case list() if value and all(
            isinstance(item, str | int) and not isinstance(item, bool) for item in value
        ):
            return tuple(str(item) for item in value)
    raise refusal(f"{where}: {name}", value, "all, a number, or a list of indices and UUIDs")
