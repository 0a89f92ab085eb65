"""Loads the settings: flag over environment variable over configuration file over default.

Everything is validated before anything starts; each error names the key, the value and the choices
in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from plugin.config import choice
from plugin.config.options import IGNORED_FLAGS, OPTIONS, parse
from plugin.config.places import control_socket
from plugin.core.option import Option
from plugin.core.quote import shorten
from plugin.core.settings import Settings
from plugin.errors import ConfigError


class Source(NamedTuple):
    """A configuration's text. ``path`` is that of ``--config-file`` or ``--config-dir``, ``name``
    that of the file in the directory.
    """

    path: str
    name: str
    text: str


class Loaded(Struct, frozen=True):
    """``name`` is that of the configuration, where it is one of several. ``source`` is ``None``
    without a file; the settings of two texts may be the same.
    """

    settings: Settings
    warnings: tuple[str, ...] = ()
    name: str = ""
    source: Source | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loaded) and self._compared == other._compared

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[object, ...]:
        return self.settings, self.warnings, self.name


class CommandLine(Struct, frozen=True):
    """Parsed flags by field, ``None`` if not given, and variables: what does not change while the
    process lives.
    """

    arguments: Mapping[str, Any]
    environment: Mapping[str, str]

    def alone(self) -> Settings:
        """The settings without those of a file. Raises :class:`ConfigError`."""
        outside, _ = _outside(self.arguments, self.environment)
        return Settings(**outside)

    def read(self, label: str = "") -> Loaded:
        """See :func:`load`."""
        return load(self.arguments, self.environment, label)

    def reread(self, kept: Source, label: str = "") -> Loaded:
        """The same with this text in place of a file's; refused if another configuration is asked
        for. Raises :class:`ConfigError`.
        """
        outside, warnings = _outside(self.arguments, self.environment)
        asked = choice.asked(outside, label)
        if kept.path != _followed(outside) or (kept.name and asked not in {"", kept.name}):
            raise ConfigError("it is of another configuration")
        return _loaded("the last good configuration", kept, outside, warnings, self.environment)


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], label: str = "") -> Loaded:
    """`arguments` are parsed flags by field, ``None`` if not given; `label` is the value of the
    node's label that names the configuration. Raises :class:`ConfigError`.
    """
    outside, warnings = _outside(arguments, environment)
    if not _followed(outside):
        return _loaded("", None, outside, warnings, environment)
    from plugin.config import document  # noqa: PLC0415 — 25 ms, only with a file

    name, path = "", Path(outside.get("config_file", ""))
    if outside.get("config_dir"):
        name, path = choice.file(outside, label)
    where = f"config file {shorten(str(path))}"
    source = Source(_followed(outside), name, document.read_text(where, path))
    return _loaded(where, source, outside, warnings, environment)


def _outside(
    arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """What flags and variables say, by field, and warnings."""
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
    choice.check(outside)
    return outside, warnings


def _followed(outside: Mapping[str, Any]) -> str:
    """The file or directory with further settings; empty for none."""
    return str(outside.get("config_dir") or outside.get("config_file") or "")


def _loaded(
    where: str,
    source: Source | None,
    outside: Mapping[str, Any],
    warnings: list[str],
    environment: Mapping[str, str],
) -> Loaded:
    flags: Mapping[str, Any] = {}
    if source is not None:
        from plugin.config import file  # noqa: PLC0415 — as above

        flags, file_warnings = file.parse_text(where, source.text)
        warnings += file_warnings
        warnings += [
            f"{where}: flags.{option.key} has no effect: {option.flags[0]} or {option.envs[0]} is "
            "given and counts more"
            for option in OPTIONS
            if option.field in flags
            and outside.get(option.field, flags[option.field]) != flags[option.field]
        ]
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
        one, missing = names if settings.http_tls_cert else reversed(names)
        raise ConfigError(f"{one}: is given without {missing}; choose both or none")
    if settings.features_file and settings.node_labels:
        raise ConfigError(
            "--features-file: is given with --node-labels, which writes the same labels",
            "choose one of them",
        )
    taint, startup = settings.node_taint, settings.startup_taint
    if taint and startup and (taint.key, taint.effect) == (startup.key, startup.effect):
        raise ConfigError(
            f"--node-taint: {taint} is --startup-taint's, which is removed once kubelet has every "
            "resource",
            "choose another key or effect for one of them",
        )
    return Loaded(settings, tuple(warnings), source.name if source is not None else "", source)


def _given(
    option: Option, arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> list[tuple[str, Any]]:
    """The flag's or the variable's value with its name, if there is one."""
    if (value := arguments.get(option.field)) is not None:
        return [(option.flags[0], value)]
    # Templates leave empty variables behind: ignored, unless empty has a meaning.
    found = [(name, environment[name]) for name in option.envs if name in environment]
    return [(name, value) for name, value in found if value or option.empty][:1]
