"""Which configuration is in force, and whether the newest one is."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from plugin.core.quote import shorten_bytes


class Waiting(NamedTuple):
    """A changed option that takes effect after a restart; ``option`` is its key in the file."""

    option: str
    old: str
    new: str


class Configuration(Struct, frozen=True):
    """``name`` is that of the configuration in force, where it is one of several; ``problem`` says
    why the newest one was refused, so that an older one stays in force; empty: it was not.
    ``waiting`` are its changes that need a restart. ``taken`` and ``refused`` count changes while
    running.
    """

    name: str = ""
    problem: str = ""
    waiting: tuple[Waiting, ...] = ()
    taken: int = 0
    refused: int = 0


_REFUSED = "the configuration was refused, the old one stays in force: "


def refused(configuration: Configuration, most_bytes: int | None = None) -> str:
    """A sentence about a newest configuration that was refused; at most so long."""
    problem = configuration.problem
    if most_bytes is not None:
        problem = shorten_bytes(problem, most_bytes - len(_REFUSED))
    return f"{_REFUSED}{problem}"


def accepted(configuration: Configuration) -> str:
    """A sentence about a configuration that is in force after one was refused."""
    name = f" {configuration.name}" if configuration.name else ""
    return f"the newest configuration{name} is in force again"


def waiting(configuration: Configuration) -> str:
    """A sentence about changes that need a restart."""
    options = ", ".join(change.option for change in configuration.waiting)
    return f"changed options take effect after a restart: {options}"
