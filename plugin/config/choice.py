"""Which file of a directory of configurations a node uses."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from plugin.config.options import OPTIONS
from plugin.core.grammars import CONFIG_NAME
from plugin.core.quote import quote, shorten
from plugin.errors import ConfigError, ConfigUnreadable

#: The name of the file for nodes for which nothing names another, as in NVIDIA's chart.
FALLBACK = "default"
#: A ConfigMap holds 1 MiB; a directory with more files than this holds something else.
MOST_FILES = 1000

_FLAGS = {option.field: option.flags[0] for option in OPTIONS}
_CHOOSING = ("config_name", "config_label", "config_default")


def check(outside: Mapping[str, Any]) -> None:
    """Refuse options about the directory that contradict each other. Raises ConfigError."""
    given = [field for field in ("config_dir", *_CHOOSING) if outside.get(field)]
    if given and "config_dir" not in given:
        raise ConfigError(
            f"{_FLAGS[given[0]]}: is given without --config-dir", "choose both or none"
        )
    if given and outside.get("config_file"):
        raise ConfigError("--config-dir: is given with --config-file", "choose one of them")


def file(outside: Mapping[str, Any], label: str) -> tuple[str, Path]:
    """The name of the configuration that this node uses, and its file. `label` is the value of the
    node's label, empty without one. Raises :class:`ConfigError`.
    """
    folder = Path(outside["config_dir"])
    where = f"config directory {shorten(str(folder))}"
    found = names(where, folder)
    name = choose(where, found, outside, label)
    return name, folder / name


def names(where: str, folder: Path) -> tuple[str, ...]:
    """The names in the directory. Raises :class:`ConfigError`."""
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _is_name(entry.name) or entry.is_dir():
                    continue
                found.append(entry.name)
                if len(found) > MOST_FILES:
                    raise ConfigError(f"{where}: holds more than {MOST_FILES} files")
    except OSError as error:
        raise ConfigUnreadable(f"{where}: cannot be read: {error.strerror or error}") from error
    return tuple(sorted(found))


def _asked(outside: Mapping[str, Any], label: str) -> tuple[tuple[str, str], ...]:
    """Names, and who asks for them; the first that is not empty counts."""
    key = outside.get("config_label", "")
    return (
        (outside.get("config_name", ""), "--config-name"),
        (label if key else "", f"the node's label {key}"),
        (outside.get("config_default", ""), "--config-default"),
    )


def asked(outside: Mapping[str, Any], label: str) -> str:
    """The name that is asked for; empty: whichever goes without saying."""
    return next((str(name) for name, _ in _asked(outside, label) if name), "")


def choose(where: str, found: Collection[str], outside: Mapping[str, Any], label: str) -> str:
    """The name to use: that of the option, of the label, the default, or the one that goes without
    saying. Raises :class:`ConfigError` with the choices.
    """
    for name, asking in _asked(outside, label):
        if name and name not in found:
            raise ConfigError(
                f"{where}: has no configuration {quote(name)}, which {asking} names",
                _choices(found),
            )
        if name:
            return name
    if FALLBACK in found:
        return FALLBACK
    if len(found) == 1:
        return next(iter(found))
    raise ConfigError(
        f"{where}: nothing says which configuration to use",
        f"set --config-default; {_choices(found)}",
    )


def _choices(found: Collection[str]) -> str:
    return f"the choices are {', '.join(found)}" if found else "the directory holds none"


def _is_name(text: str) -> bool:
    try:
        CONFIG_NAME.parse(text)
    except ValueError:
        return False
    return True
