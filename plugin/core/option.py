"""Declares an option on the field of ``Settings`` that holds it."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, NamedTuple, TypeVar

from plugin.core.grammars import BOOLEAN, Grammar, choice

T = TypeVar("T")


class Change(enum.StrEnum):
    """When a value that changes while the daemon runs takes effect."""

    AT_ONCE = "at once"
    NEXT_INTERVAL = "next interval"
    RESTART = "restart"


class Option(NamedTuple):
    """An option as declared. ``plugin.config.options`` fills in `field` and the names that follow
    from it.
    """

    default: Any
    meaning: str
    grammar: Grammar[Any]
    group: str
    flags: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    key: str = ""
    #: False: the file has no `key` for it, and a change needs a restart.
    in_file: bool = True
    change: Change = Change.AT_ONCE
    #: Describes a default that depends on another option.
    default_meaning: str = ""
    #: The value for an empty string, in a tuple because it may be ``None``. ``()``: empty is not
    #: allowed.
    empty: tuple[Any, ...] = ()
    field: str = ""


class Group(NamedTuple):
    """Options under one heading in ``--help`` and the documents."""

    title: str

    def option(
        self, default: T, meaning: str, grammar: Grammar[T] | None = None, **attributes: Any
    ) -> T:
        """A field of ``Settings``. `attributes` are those of :class:`Option`. Booleans and
        enumerations need no `grammar`.
        """
        declared = Option(default, meaning, grammar or _grammar(default), self.title, **attributes)
        field: T = dataclasses.field(default=default, metadata={"option": declared})
        return field


def _grammar(default: Any) -> Grammar[Any]:
    kind: Any = type(default)
    return BOOLEAN if kind is bool else choice(kind)
