"""What a configuration file says: ``flags`` by their keys, ``sharing`` and ``resources``."""

from __future__ import annotations

from plugin.config import document, keys, resource_names, sharing
from plugin.config.options import IGNORED_KEYS, IGNORED_SECTIONS, OPTIONS, parse, refusal
from plugin.errors import ConfigError

#: Settings by field, and warnings.
Contents = tuple[dict[str, object], list[str]]


def parse_text(where: str, text: str) -> Contents:
    """The settings in the file with this text. Raises :class:`ConfigError`."""
    return parse_document(where, document.parse(where, text))


def parse_document(where: str, given: object) -> Contents:
    """``({field: value}, warnings)`` of a configuration file."""
    if given in (None, ""):  # as a file is that is just being written
        raise ConfigError(f"{where}: holds no settings; begin with 'version: v1'")
    sections = keys.mapping(where, "the whole document", given)
    version = sections.get("version")
    if version not in ("v1", "", None):  # a file that names none is of the first
        raise refusal(f"{where}: version", version, "v1")
    warnings = [] if sections else [f"{where}: holds no settings: all have their defaults"]
    keys.refuse_unknown(where, "", sections, keys.TOP)
    warnings += [
        f"{where}: {key} has no effect: {why}"
        for key, why in IGNORED_SECTIONS.items()
        if sections.get(key)
    ]
    by_key = {option.key: option for option in OPTIONS if option.key}
    known = {*by_key, *IGNORED_KEYS}
    values: dict[str, object] = {}
    for key, value in _flatten(where, "flags", sections.get("flags")):
        if key not in known:
            raise keys.unknown(where, "flags", key, known)
        # Templates leave empty texts behind, in files as in variables.
        if value is None or (value == "" and not (key in by_key and by_key[key].empty)):
            continue
        if key in IGNORED_KEYS:
            warnings.append(f"{where}: flags.{key} has no effect: {IGNORED_KEYS[key]}")
        else:
            values[by_key[key].field] = parse(by_key[key], f"{where}: flags.{key}", value)
    shared = sharing.parse(where, sections.get("sharing"), warnings)
    naming = resource_names.parse(where, sections.get("resources"))
    resource_names.check_renames(where, shared.resources, naming)
    values["sharing"], values["naming"] = shared, naming
    return values, warnings


def _flatten(where: str, name: str, value: object) -> list[tuple[str, object]]:
    """``flags`` as ``(dotted key, value)``; only ``plugin`` nests, and what is ignored is not
    looked into.
    """
    flags = keys.mapping(where, name, value)
    inner = keys.mapping(where, "flags.plugin", flags.get("plugin"))
    outer = [(key, item) for key, item in flags.items() if key != "plugin"]
    return outer + [(f"plugin.{key}", item) for key, item in inner.items()]
