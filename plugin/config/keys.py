"""The keys that a configuration file may have, and what to say of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from plugin.config.options import IGNORED_KEYS, IGNORED_SECTIONS, OPTIONS, refusal
from plugin.core.quote import shorten
from plugin.errors import ConfigError

TOP = frozenset({"version", "flags", "sharing", "resources", *IGNORED_SECTIONS})
SHARING = frozenset({"timeSlicing", "mps"})
TIME_SLICING = frozenset({"renameByDefault", "failRequestsGreaterThanOne", "resources"})
SHARED = frozenset({"name", "rename", "devices", "replicas"})
NAMES = frozenset({"gpus", "migs", "mig"})
NAME = frozenset({"pattern", "product", "name"})

_SECTIONS = {
    "": TOP,
    "sharing": SHARING,
    "sharing.timeSlicing": TIME_SLICING,
    "sharing.timeSlicing.resources[]": SHARED,
    "resources": NAMES,
    "resources.migs[]": NAME,
}


def _plain(key: str) -> str:
    """A key without what tells ``migStrategy``, ``mig-strategy`` and ``MIG_STRATEGY`` apart."""
    return key.replace("-", "").replace("_", "").lower()


def _known_places() -> dict[str, list[str]]:
    """Plain key → where a file may have it."""
    places = [f"{section}.{key}".lstrip(".") for section, keys in _SECTIONS.items() for key in keys]
    places += [f"flags.{key}" for key in (*IGNORED_KEYS, *(o.key for o in OPTIONS if o.key))]
    places.append("flags.plugin")
    found: dict[str, list[str]] = {}
    for place in sorted(places):
        found.setdefault(_plain(place.rpartition(".")[2]), []).append(place)
    return found


def mapping(where: str, name: str, value: object) -> Mapping[str, Any]:
    """A mapping with texts for keys; empty for nothing. Raises :class:`ConfigError`."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise refusal(f"{where}: {name}", value, "a mapping of names to values")
    return value


def refuse_unknown(
    where: str, section: str, given: Mapping[str, Any], known: Collection[str]
) -> None:
    for key in given:
        if key not in known:
            raise unknown(where, section, key, known)


def unknown(where: str, section: str, key: str, known: Collection[str]) -> ConfigError:
    """What is wrong with a key that `section` does not have, and where it belongs or what is like
    it.
    """
    shown = shorten(key)
    name = f"{where}: {section}.{shown}" if section else f"{where}: {shown}"
    leaf = _plain(key.rpartition(".")[2])
    if _plain(key) not in map(_plain, known):
        for option in OPTIONS:
            if not option.key and leaf in {_plain(n.lstrip("-")) for n in option.flags}:
                return ConfigError(
                    f"{name} does not belong into a file; set {option.flags[0]} or {option.envs[0]}"
                )
        if places := _known_places().get(leaf):
            return ConfigError(f"{name} is in the wrong place; write {' or '.join(places)}")
    import difflib  # noqa: PLC0415 — most files have no such key

    close = difflib.get_close_matches(shown, known, n=1)
    choices = ", ".join(sorted(known))
    suggestion = f"did you mean {close[0]}? The" if close else "the"
    return ConfigError(f"{name} is not known; {suggestion} choices are {choices}")
