"""The section ``resources`` of a configuration file: names by product and profile."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plugin.config import keys
from plugin.config.options import refusal
from plugin.core.advertise.naming import NamePattern, Naming
from plugin.core.inventory.profiles import GPU_RESOURCE, RESOURCE_PREFIX, Profile, resource_name
from plugin.core.settings import SharedResource
from plugin.errors import ConfigError

#: The part of an extended resource's name behind the slash, as Kubernetes demands it.
_RESOURCE = re.compile(
    re.escape(RESOURCE_PREFIX) + r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
RESOURCE = f"{RESOURCE_PREFIX}<resource>, with or without {RESOURCE_PREFIX}"
_PATTERN = "a text, in which * stands for any characters and ? for one"
_MIG_RESOURCE = resource_name("")


def is_resource(value: object) -> bool:
    return isinstance(value, str) and _RESOURCE.fullmatch(value) is not None


def full(value: object) -> object:
    """A resource's name with the prefix, which may be left out."""
    if not isinstance(value, str) or not value:
        return value
    return RESOURCE_PREFIX + value.removeprefix(RESOURCE_PREFIX)


def parse(where: str, value: object) -> Naming:
    """Raises :class:`ConfigError`."""
    section = keys.mapping(where, "resources", value)
    keys.refuse_unknown(where, "resources", section, keys.NAMES)
    if section.get("mig") and section.get("migs"):
        raise ConfigError(f"{where}: resources.mig and resources.migs are one section; write one")
    migs = "mig" if section.get("mig") else "migs"  # the former is NVIDIA's key
    naming = Naming(*(_patterns(where, kind, section.get(kind)) for kind in ("gpus", migs)))
    names = {entry.name for entry in naming.gpus}
    for number, entry in enumerate(naming.migs):
        if entry.name in names | {GPU_RESOURCE}:
            raise ConfigError(
                f"{where}: resources.{migs}[{number}].name: {entry.name} is a name of whole GPUs; "
                "choose another, since pods could not tell which they get"
            )
    return naming


def check_renames(where: str, entries: Sequence[SharedResource], naming: Naming) -> None:
    """Shares must not have the name of other devices: pods could not tell which they get. Raises
    :class:`ConfigError`.
    """
    others = {GPU_RESOURCE, *(entry.name for entry in (*naming.gpus, *naming.migs))}
    names: dict[str, str] = {}
    for number, entry in enumerate(entries):
        rename = entry.rename
        if rename in {None, entry.name, f"{entry.name}.shared"}:
            continue
        first = names.setdefault(rename, entry.name)
        if rename in others or _is_of_profile(rename):
            whose = "is a name of other devices"
        elif first != entry.name:
            whose = f"is the name for shares of {first} already"
        elif any(other.name == rename for other in entries):
            whose = "is shared itself"
        else:
            continue
        raise ConfigError(
            f"{where}: sharing.timeSlicing.resources[{number}].rename: {rename} {whose}; choose "
            "another, since pods could not tell which they get"
        )


def _patterns(where: str, kind: str, value: object) -> tuple[NamePattern, ...]:
    entries = value or []
    if not isinstance(entries, list):
        raise refusal(f"{where}: resources.{kind}", entries, "a list")
    return tuple(
        _pattern(where, kind, f"resources.{kind}[{number}]", entry)
        for number, entry in enumerate(entries)
    )


def _pattern(where: str, kind: str, place: str, value: object) -> NamePattern:
    entry = keys.mapping(where, place, value)
    keys.refuse_unknown(
        where, place, entry, keys.NAME - {"product"} if kind == "gpus" else keys.NAME
    )
    pattern, product = entry.get("pattern"), entry.get("product", "*")
    for key, text in (("pattern", pattern), ("product", product)):
        if not isinstance(text, str) or not text:
            raise refusal(f"{where}: {place}.{key}", text, _PATTERN)
    given = entry.get("name")
    name = str(full(given))
    if not is_resource(full(given)):
        raise refusal(f"{where}: {place}.name", given, RESOURCE)
    if name.startswith(_MIG_RESOURCE) and not _is_own(kind, name, str(pattern)):
        raise ConfigError(
            f"{where}: {place}.name: {name} is the name of another profile's devices; choose one "
            f"that does not begin with {_MIG_RESOURCE}"
        )
    return NamePattern(str(pattern), name, str(product))


def _is_own(kind: str, name: str, pattern: str) -> bool:
    """Whether a name that begins as those of MIG devices do can be mistaken for no other's."""
    return kind != "gpus" and (not _is_of_profile(name) or name == resource_name(pattern))


def _is_of_profile(name: str) -> bool:
    profile = name.removeprefix(_MIG_RESOURCE)
    return profile != name and any(
        Profile.parse(each) is not None for each in (profile, profile.replace("gb.", "gb+"))
    )
