"""Declaring an option on the field of ``Settings`` that holds it."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, NamedTuple, TypeVar

from plugin.core.grammars import BOOLEAN, Grammar, choice

T = TypeVar("T")


class Change(enum.StrEnum):
    """When a changed value takes effect, once SIGHUP has the configuration read again."""

    AT_ONCE = "at once"
    NEXT_INTERVAL = "next interval"
    RESTART = "restart"


class Option(NamedTuple):
    """An option as declared. ``plugin.config.options`` fills in `field` and the names that are
    empty, since they follow from it.
    """

    default: Any
    meaning: str
    grammar: Grammar[Any]
    group: str
    flags: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    key: str = ""
    #: Whether the configuration file can set it: no `key` otherwise, and no change without restart.
    in_file: bool = True
    change: Change = Change.AT_ONCE
    #: The default in words, where it depends on something else.
    default_meaning: str = ""
    #: What an empty value means; in a tuple, because ``None`` may be it. ``()``: not given.
    empty: tuple[Any, ...] = ()
    field: str = ""


class Group(NamedTuple):
    """Options that ``--help`` and the documents show together."""

    title: str

    def option(self, default: T, meaning: str, grammar: Grammar[T] | None = None, **said: Any) -> T:
        """A field of ``Settings`` that flag, environment variable and configuration file can set.
        For `said`, see :class:`Option`. The type of a truth value or word tells its grammar.
        """
        declared = Option(default, meaning, grammar or _grammar(default), self.title, **said)
        made: T = dataclasses.field(default=default, metadata={"option": declared})
        return made


def _grammar(default: Any) -> Grammar[Any]:
    kind: Any = type(default)
    return BOOLEAN if kind is bool else choice(kind)
