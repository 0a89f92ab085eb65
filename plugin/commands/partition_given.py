"""The configuration that a command line names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from plugin.config import mig_configs
from plugin.core.partition.configuration import Configuration
from plugin.core.partition.policy import Policy
from plugin.errors import ConfigError


class Named(NamedTuple):
    """``of_file`` are the configurations of the file that the command line gives. A name that is
    not among them is one of the node's: of ``--partition-file``, or a usual one.
    """

    name: str
    of_file: Mapping[str, Configuration]

    @property
    def configuration(self) -> Configuration | None:
        return self.of_file.get(self.name)


def named_by(name: str, file: str) -> Named:
    """Without a name, the file's only one. Raises :class:`ConfigError`."""
    of_file = mig_configs.read(Path(file)) if file else {}
    if not name and len(of_file) == 1:
        name = next(iter(of_file))
    if not name:
        choices = ", ".join(of_file) or "those of the node, such as all-balanced"
        raise ConfigError("-c is missing: name a MIG configuration", f"the choices are {choices}")
    return Named(name, of_file)


class Given(Struct, frozen=True):
    """What the command line says. ``seconds``: 0 waits without end."""

    name: str
    file: str = ""
    policy: Policy | None = None
    seconds: float = 0.0
    output: str = "text"
