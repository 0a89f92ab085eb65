"""Files of MIG configurations, in mig-parted's format."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from plugin.config import document
from plugin.config.options import refusal
from plugin.core.partition.configuration import Configuration, Entry, Wanted, canonical
from plugin.core.quote import quote, shorten
from plugin.errors import ConfigError

_TOP = ("version", "mig-configs")
_ENTRY = ("device-filter", "devices", "mig-enabled", "mig-devices")
_FILTER = re.compile(r"0[xX][0-9a-fA-F]{8}")
_FILTERS = "PCI device ids such as 0x20B010DE (device, then vendor)"
_DEVICES = "all, or a list of indices of GPUs"
_PROFILE = "a profile such as 1g.5gb, 1g.5gb+me or 1c.3g.20gb"
_MOST_GPUS = 256
_MOST_DEVICES = 64


def read(path: Path) -> dict[str, Configuration]:
    """The configurations in the file, by name. Raises :class:`ConfigError`."""
    where = f"partition file {shorten(str(path))}"
    return parse(where, document.read(where, path))


def of_node(path: str) -> dict[str, Configuration]:
    """Those of ``--partition-file``; none without one. Raises :class:`ConfigError`."""
    return read(Path(path)) if path else {}


def parse(where: str, given: object) -> dict[str, Configuration]:
    """The configurations of a document, called `where` in messages. Raises :class:`ConfigError`."""
    top = _fields(where, "the whole document", given, _TOP)
    if "version" not in top:
        raise ConfigError(f"{where}: version is missing", "begin with version: v1")
    if top["version"] != "v1":
        raise refusal(f"{where}: version", top["version"], "v1")
    configs = top.get("mig-configs")
    if not isinstance(configs, dict) or not configs:
        raise refusal(f"{where}: mig-configs", configs, "a mapping of names to lists of entries")
    found = {}
    for name, entries in configs.items():
        if not isinstance(name, str) or not name:
            raise refusal(f"{where}: mig-configs", name, "a text for the name of a configuration")
        title = f"{where}: mig-configs.{shorten(name)}"
        if not isinstance(entries, list) or not entries:
            raise refusal(title, entries, "a list with at least one entry")
        found[name] = Configuration(
            name, tuple(_entry(title, f"[{number}]", one) for number, one in enumerate(entries))
        )
    return found


def _entry(where: str, number: str, given: object) -> Entry:
    title = f"{where}{number}"
    fields = _fields(title, "it", given, _ENTRY)
    for name in ("devices", "mig-enabled"):
        if name not in fields:
            raise ConfigError(f"{title}: {name} is missing", f"choose {_CHOICES[name]}")
    on = fields["mig-enabled"]
    if not isinstance(on, bool):
        raise refusal(f"{title}.mig-enabled", on, _CHOICES["mig-enabled"])
    devices = profiles(f"{title}.mig-devices", fields.get("mig-devices"))
    if on and fields.get("mig-devices") is None:
        raise ConfigError(
            f"{title}: mig-devices is missing",
            "with mig-enabled: true, write the profiles and counts, or {} for none",
        )
    if not on and devices:
        raise ConfigError(
            f"{title}: mig-devices has profiles although mig-enabled is false",
            "remove them, or set mig-enabled: true",
        )
    return Entry(
        Wanted.of(devices) if on else Wanted(mig=False),
        _indices(f"{title}.devices", fields["devices"]),
        _filters(f"{title}.device-filter", fields),
    )


_CHOICES = {"devices": _DEVICES, "mig-enabled": "true or false"}


def _fields(where: str, name: str, given: object, known: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise refusal(f"{where}: {name}", given, f"a mapping with {', '.join(known)}")
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key)[:64], known, n=1)
            choices = f"choices are {', '.join(known)}"
            raise ConfigError(
                f"{where}: {quote(key)} is no field",
                f"did you mean {close[0]}? The {choices}" if close else f"the {choices}",
            )
    return given


def _indices(where: str, given: object) -> tuple[int, ...] | None:
    if given == "all":
        return None
    if not isinstance(given, list) or not given:
        raise refusal(where, given, _DEVICES)
    for item in given:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < _MOST_GPUS:
            raise refusal(where, item, f"indices of GPUs, from 0 to {_MOST_GPUS - 1}")
    twice = sorted({item for item in given if given.count(item) > 1})
    if twice:
        raise ConfigError(f"{where}: GPU {twice[0]} is named twice", "name it once")
    return tuple(given)


def _filters(where: str, fields: Mapping[str, Any]) -> frozenset[int]:
    if "device-filter" not in fields:
        return frozenset()
    given = fields["device-filter"]
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise refusal(where, given, f"one or a list of {_FILTERS}")
    for item in items:
        if not isinstance(item, str) or not _FILTER.fullmatch(item):
            raise refusal(where, item, _FILTERS)
    return frozenset(int(item, 16) for item in items)


def profiles(where: str, given: object) -> dict[str, int]:
    """Counts of MIG devices by profile. Raises :class:`ConfigError`."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise refusal(where, given, "a mapping of profiles to counts")
    found: dict[str, int] = {}
    for name, count in given.items():
        profile = canonical(name) if isinstance(name, str) else ""
        if not profile:
            raise refusal(where, name, _PROFILE)
        if profile in found:
            raise ConfigError(f"{where}: {profile} is given twice", "give it once")
        valid = isinstance(count, int) and not isinstance(count, bool)
        if not valid or not 0 <= count <= _MOST_DEVICES:
            raise refusal(f"{where}.{name}", count, f"a count from 0 to {_MOST_DEVICES}")
        found[profile] = count
    return found
