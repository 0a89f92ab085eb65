"""Filling the settings: command line flag, then environment variable, then configuration file, then
default.

Everything is checked before anything starts; each error names the key, the value and the choices in
one line.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from plugin.config.options import (
    EMPTY_MEANS_NONE,
    IGNORED_FLAGS,
    IGNORED_KEYS,
    OPTIONS,
    Option,
    absolute_path,
    boolean,
    socket_path,
)
from plugin.core.inventory.profiles import RESOURCE_PREFIX
from plugin.core.settings import HealthChecks, Settings, SharedResource, Sharing
from plugin.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and what an administrator should know about how they came to be."""

    settings: Settings
    warnings: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser, only: Sequence[str] = ()) -> None:
    """Give `parser` a flag per option (those named in `only`, or all), grouped for ``--help``."""
    groups: dict[str, Any] = {}
    for option in OPTIONS:
        if only and option.field not in only:
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        names = ", ".join(option.envs) + (f"; flags.{option.key}" if option.key else "")
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if option.switch else {}
        groups[option.group].add_argument(
            *option.flags,
            dest=option.field,
            default=None,
            metavar=_metavar(option),
            help=f"{option.help}{_default_words(option)} [{names}]",
            **switch,
        )
    for flag in () if only else IGNORED_FLAGS:
        parser.add_argument(
            flag, dest=f"ignored:{flag}", default=None, nargs="?", const="", help=argparse.SUPPRESS
        )


def _metavar(option: Option) -> str:
    if option.switch:
        return "BOOL"
    return {"simulate": "NODE[:GEOMETRY]", "rescan_seconds": "SECONDS", "config_file": "FILE"}.get(
        option.field, "PATH" if option.parse in {absolute_path, socket_path} else "VALUE"
    )


def _default_words(option: Option) -> str:
    return "" if "(default" in option.help else f" (default: {_shown(option)})"


def _shown(option: Option) -> str:
    default = {field.name: field.default for field in fields(Settings)}[option.field]
    match default:
        case bool():
            return str(default).lower()
        case tuple():
            return ",".join(default)
        case "" | HealthChecks():
            return "none"
        case _:
            return f"{default:g}" if isinstance(default, float) else str(default)


def load(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Loaded:
    """Settings from parsed `arguments` (by field, ``None`` for not given), `environment` and the
    file they name.

    Raises :class:`ConfigError`.
    """
    warnings = []
    for flag, why in IGNORED_FLAGS.items():
        if arguments.get(f"ignored:{flag}") is not None:
            warnings.append(f"{flag} has no effect: {why}")
        elif environment.get(name := flag.removeprefix("--").replace("-", "_").upper()):
            warnings.append(f"{name} has no effect: {why}")
    values: dict[str, Any] = {}
    path = _from_outside(_option("config_file"), arguments, environment)
    flags, sharing, file_warnings = _read_file(Path(str(path))) if path else ({}, Sharing(), [])
    for option in OPTIONS:
        value = _from_outside(option, arguments, environment)
        if value is None:
            value = flags.get(option.field)
        if value is not None:
            values[option.field] = value
    settings = Settings(**values, sharing=sharing)
    if bool(settings.http_tls_cert) != bool(settings.http_tls_key):
        given, missing = (
            ("--http-tls-cert", "--http-tls-key")
            if settings.http_tls_cert
            else ("--http-tls-key", "--http-tls-cert")
        )
        raise ConfigError(f"{given}: is given without {missing}; choose both or none")
    return Loaded(settings, (*warnings, *file_warnings))


def _option(field: str) -> Option:
    return next(option for option in OPTIONS if option.field == field)


def _from_outside(
    option: Option, arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> object | None:
    if (given := arguments.get(option.field)) is not None:
        return _parse(option, option.flags[0], given)
    for name in option.envs:
        given = environment.get(name)
        # An empty variable is what templates leave behind; only sockets and addresses give it a
        # meaning.
        if given is not None and (given != "" or option.parse in EMPTY_MEANS_NONE):
            return _parse(option, name, given)
    return None


def _parse(option: Option, name: str, value: object) -> object:
    try:
        return option.parse(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {value!r} is not valid; choose {error}") from None


def _read_file(path: Path) -> tuple[dict[str, object], Sharing, list[str]]:
    """What :func:`_parse_document` makes of the file."""
    from plugin.config import document  # noqa: PLC0415 — 25 ms that only those with a file pay

    where = f"config file {path}"
    return _parse_document(where, document.read(where, path))


def _parse_document(where: str, given: object) -> tuple[dict[str, object], Sharing, list[str]]:
    """``({field: value}, sharing, warnings)`` of a configuration file."""
    if not given:
        raise ConfigError(f"{where}: holds no settings; begin with 'version: v1'")
    document = _mapping(where, "the whole document", given)
    version = document.get("version")
    if version != "v1":
        raise ConfigError(f"{where}: version: {version!r} is not valid; choose v1")
    warnings: list[str] = []
    _refuse_unknown(
        where, "", document, {"version", "flags", "sharing", "resources", "imex", "health"}
    )
    warnings += [
        f"{where}: {key} has no effect here"
        for key in ("resources", "imex", "health")
        if document.get(key)
    ]
    by_key = {option.key: option for option in OPTIONS if option.key}
    known = {*by_key, *IGNORED_KEYS}
    values: dict[str, object] = {}
    for key, value in _flatten(where, "flags", document.get("flags")):
        if key in IGNORED_KEYS:
            warnings.append(f"{where}: flags.{key} has no effect: {IGNORED_KEYS[key]}")
        elif key not in by_key:
            raise ConfigError(f"{where}: flags.{key} is not known; {_suggest(key, known)}")
        elif value is not None:
            values[by_key[key].field] = _parse(by_key[key], f"{where}: flags.{key}", value)
    return values, _parse_sharing(where, document.get("sharing"), warnings), warnings


def _flatten(where: str, name: str, value: object) -> list[tuple[str, object]]:
    """``flags`` as ``(dotted key, value)``; only ``plugin`` nests, and what is ignored is not
    looked into.
    """
    flags = _mapping(where, name, value)
    inner = _mapping(where, "flags.plugin", flags.get("plugin"))
    outer = [(key, item) for key, item in flags.items() if key != "plugin"]
    return outer + [(f"plugin.{key}", item) for key, item in inner.items()]


def _mapping(where: str, name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(
            f"{where}: {name}: {value!r} is not valid; choose a mapping of names to values"
        )
    return value


def _refuse_unknown(where: str, prefix: str, mapping: Mapping[str, Any], known: set[str]) -> None:
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{where}: {prefix}{key} is not known; {_suggest(key, known)}")


def _suggest(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    choices = ", ".join(sorted(known))
    return (
        f"did you mean {close[0]}? The choices are {choices}"
        if close
        else f"the choices are {choices}"
    )


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
        raise ConfigError(f"{where}: {name}.resources: {entries!r} is not valid; choose a list")
    resources = tuple(
        _parse_shared(where, f"{name}.resources[{number}]", entry)
        for number, entry in enumerate(entries)
    )
    twice = [
        entry.name
        for n, entry in enumerate(resources)
        if entry.name in {e.name for e in resources[:n]}
    ]
    if twice:
        raise ConfigError(
            f"{where}: {name}.resources: {twice[0]!r} is named twice; choose one entry for each "
            "resource"
        )
    if any(entry.replicas == 1 for entry in resources):
        warnings.append(f"{where}: {name}: one replica shares nothing")
    flags = {}
    for key in ("renameByDefault", "failRequestsGreaterThanOne"):
        try:
            flags[key] = slicing.get(key) is not None and boolean(slicing[key])
        except ValueError as error:
            raise ConfigError(
                f"{where}: {name}.{key}: {slicing[key]!r} is not valid; choose {error}"
            ) from None
    return Sharing(resources, flags["renameByDefault"], flags["failRequestsGreaterThanOne"])


def _parse_shared(where: str, name: str, value: object) -> SharedResource:
    entry = _mapping(where, name, value)
    _refuse_unknown(where, f"{name}.", entry, {"name", "rename", "devices", "replicas"})
    resource, replicas, rename = entry.get("name"), entry.get("replicas"), entry.get("rename")
    if not _is_resource(resource):
        raise ConfigError(
            f"{where}: {name}.name: {resource!r} is not valid; choose {RESOURCE_PREFIX}<resource>"
        )
    if rename is not None and not _is_resource(rename):
        raise ConfigError(
            f"{where}: {name}.rename: {rename!r} is not valid; choose {RESOURCE_PREFIX}<resource>"
        )
    if (
        not isinstance(replicas, int)
        or isinstance(replicas, bool)
        or not 1 <= replicas <= _MAX_REPLICAS
    ):
        raise ConfigError(
            f"{where}: {name}.replicas: {replicas!r} is not valid; choose a number from 1 to "
            f"{_MAX_REPLICAS}"
        )
    return SharedResource(
        str(resource),
        replicas,
        rename,
        _parse_chosen(where, f"{name}.devices", entry.get("devices")),
    )


#: More would time-slice nothing useful, and 7 MIG devices on 16 GPUs times this is what kubelet
#: still takes well.
_MAX_REPLICAS = 256


#: The part of an extended resource's name behind the slash, as Kubernetes demands it.
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
    raise ConfigError(
        f"{where}: {name}: {value!r} is not valid; choose all, a number, or a list of indices "
        "and UUIDs"
    )
