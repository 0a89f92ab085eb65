"""Loads the settings: flag over environment variable over configuration file over default.

Everything is validated before anything starts; each error names the key, the value and the choices
in one line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugin.config import choice
from plugin.config.options import IGNORED_FLAGS, OPTIONS, parse
from plugin.config.places import control_socket
from plugin.core.option import Option
from plugin.core.settings import Settings
from plugin.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Loaded:
    """``name`` is that of the configuration, where it is one of several."""

    settings: Settings
    warnings: tuple[str, ...] = ()
    name: str = ""


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], label: str = "") -> Loaded:
    """`arguments` are parsed flags by field, ``None`` if not given; `label` is the value of the
    node's label that names the configuration. Raises :class:`ConfigError`.
    """
    warnings = []
    for flag, why in IGNORED_FLAGS.items():
        if arguments.get(f"ignored:{flag}") is not None:
            warnings.append(f"{flag} has no effect: {why}")
        elif environment.get(name := flag.removeprefix("--").replace("-", "_").upper()):
            warnings.append(f"{name} has no effect: {why}")
    outside: dict[str, Any] = {}
    for option in OPTIONS:
        for name, given in _given(option, arguments, environment):
            outside[option.field] = parse(option, name, given)
    name, flags, file_warnings = _file(outside, label)
    warnings += file_warnings
    places = {"control_socket": control_socket(environment, simulate=bool(outside.get("simulate")))}
    given = {**places, **flags, **outside}
    # Simulated device nodes exist in the simulation alone: a container that names one never starts.
    if given.get("simulate") and given.setdefault("pass_device_specs", False):
        warnings.append(
            "--pass-device-specs with --simulate: the device nodes are not on this machine, so a "
            "real kubelet cannot start containers that name them"
        )
    settings = Settings(**given)
    if all(strategy.by_cdi for strategy in settings.device_list_strategy):
        warnings += [
            f"--{name}-enabled has no effect by CDI alone: it is for NVIDIA's runtime"
            for name in ("gdrcopy", "gds", "mofed")
            if getattr(settings, f"{name}_enabled")
        ]
    if bool(settings.http_tls_cert) != bool(settings.http_tls_key):
        names = ("--http-tls-cert", "--http-tls-key")
        given, missing = names if settings.http_tls_cert else reversed(names)
        raise ConfigError(f"{given}: is given without {missing}; choose both or none")
    return Loaded(settings, tuple(warnings), name)


def _file(outside: Mapping[str, Any], label: str) -> tuple[str, Mapping[str, Any], Collection[str]]:
    """The configuration's name, the settings in its file, and warnings."""
    choice.check(outside)
    if not outside.get("config_dir") and not outside.get("config_file"):
        return "", {}, ()
    from plugin.config import file  # noqa: PLC0415 — 25 ms, only with a file

    name, path = "", Path(outside.get("config_file", ""))
    if outside.get("config_dir"):
        name, path = choice.file(outside, label)
    return name, *file.read(path)


def _given(
    option: Option, arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> list[tuple[str, Any]]:
    """The flag's or the variable's value with its name, if there is one."""
    if (value := arguments.get(option.field)) is not None:
        return [(option.flags[0], value)]
    # Templates leave empty variables behind: ignored, unless empty has a meaning.
    found = [(name, environment[name]) for name in option.envs if name in environment]
    return [(name, value) for name, value in found if value or option.empty][:1]
