"""Settings as plain values, so that one process can use another's: what the control socket
carries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec.structs import asdict

from plugin.config import resource_names, sharing
from plugin.config.options import OPTIONS, parse, written
from plugin.core.settings import Settings

_WHERE = "the daemon's settings"


def document(settings: Settings) -> dict[str, Any]:
    """What differs from the defaults, as a file or a variable would say it."""
    options = {
        option.field: written(getattr(settings, option.field))
        for option in OPTIONS
        if getattr(settings, option.field) != option.default
    }
    slicing = settings.sharing
    return {
        "options": options,
        "sharing": {
            "timeSlicing": {
                "renameByDefault": slicing.rename_by_default,
                "failRequestsGreaterThanOne": slicing.fail_requests_greater_than_one,
                "resources": [_shared(asdict(entry)) for entry in slicing.resources],
            }
        },
        "resources": {
            "gpus": [{"pattern": e.pattern, "name": e.name} for e in settings.naming.gpus],
            "migs": [asdict(entry) for entry in settings.naming.migs],
        },
    }


def _shared(entry: dict[str, Any]) -> dict[str, Any]:
    chosen = entry["devices"]
    return {**entry, "devices": list(chosen) if isinstance(chosen, tuple) else chosen}


def settings_of(given: Mapping[str, Any], mine: Settings, keep: Collection[str]) -> Settings:
    """The settings of a :func:`document`, but for the options in `keep`, which are as in `mine`.

    Raises :class:`~plugin.errors.ConfigError` for a document of another version that says what this
    one does not know.
    """
    values: dict[str, Any] = {
        option.field: parse(option, f"{_WHERE}: {option.field}", given["options"][option.field])
        for option in OPTIONS
        if option.field in given.get("options", {})
    }
    values["sharing"] = sharing.parse(_WHERE, given.get("sharing"), [])
    values["naming"] = resource_names.parse(_WHERE, given.get("resources"))
    return Settings(**{**values, **{field: getattr(mine, field) for field in keep}})
