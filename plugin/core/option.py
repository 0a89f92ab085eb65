"""Declaring an option on the field that holds it, and the grammars of values.

A grammar is pure: it makes the value that is used from a string, or from a plain value of a
configuration file, and raises ValueError for everything else.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
S = TypeVar("S", bound=str)

_TRUE = frozenset({"true", "1", "yes", "on", "t"})
_FALSE = frozenset({"false", "0", "no", "off", "f"})
_DIGITS = re.compile(r"[0-9]{1,9}")
DAY = 86_400


class Grammar(NamedTuple, Generic[T]):
    """A kind of value. ``choices`` names the values that `parse` takes, in messages and
    documents.
    """

    parse: Callable[[object], T]
    choices: str
    metavar: str = "VALUE"


class Change(enum.StrEnum):
    """When a changed value takes effect, once SIGHUP has the configuration read again."""

    AT_ONCE = "at once"
    NEXT_INTERVAL = "next interval"
    RESTART = "restart"


class Option(NamedTuple):
    """An option as declared. ``plugin.config.options`` fills in `field` and the names that are
    empty, since they follow from it.
    """

    grammar: Grammar[Any]
    default: Any
    group: str
    meaning: str
    field: str
    flags: tuple[str, ...]
    envs: tuple[str, ...]
    key: str
    #: Whether the configuration file can set it; `key` stays empty otherwise.
    in_file: bool
    change: Change
    #: The default in words, where it depends on something else.
    default_meaning: str
    #: What an empty value means; in a tuple, because ``None`` may be it. ``()``: not given.
    empty: tuple[Any, ...]


def option(  # noqa: PLR0913 — one for each thing that an option declares
    default: T,
    grammar: Grammar[T],
    group: str,
    meaning: str,
    *,
    flags: tuple[str, ...] = (),
    envs: tuple[str, ...] = (),
    key: str = "",
    in_file: bool = True,
    change: Change = Change.AT_ONCE,
    default_meaning: str = "",
    empty: tuple[T, ...] = (),
) -> T:
    """A field of ``Settings`` that flag, environment variable and configuration file can set."""
    declared = Option(
        *(grammar, default, group, meaning, "", flags, envs, key),
        *(in_file, change, default_meaning, empty),
    )
    made: T = dataclasses.field(default=default, metadata={"option": declared})
    return made


def _word(value: object) -> str:
    return str(value).strip().lower()


def items(value: object) -> list[str]:
    """The words of a list, or of a text with commas."""
    given = value if isinstance(value, list | tuple) else str(value).split(",")
    return [_word(item) for item in given]


def _boolean(value: object) -> bool:
    word = _word(value)
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(value)
    value.encode(errors="surrogateescape")  # a text that names no file raises ValueError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 — grammars raise ValueError only
    return value


BOOLEAN = Grammar(_boolean, "true or false", "BOOL")
PATH = Grammar(_path, "an absolute path", "PATH")
TEXT = Grammar(_text, "text")


def choice(choices: Iterable[S]) -> Grammar[S]:
    """One of the words of an enumeration or a tuple."""
    by_word = {str(item): item for item in choices}

    def parse(value: object) -> S:
        word = _word(value)
        if word not in by_word:
            raise ValueError(word)
        return by_word[word]

    return Grammar(parse, ", ".join(by_word))


def several(choices: Iterable[S]) -> Grammar[tuple[S, ...]]:
    """One or more of the words, each once."""
    one = choice(choices)

    def parse(value: object) -> tuple[S, ...]:
        chosen = tuple(dict.fromkeys(map(one.parse, items(value))))
        if not chosen:
            raise ValueError(value)
        return chosen

    return Grammar(parse, f"one or more of {one.choices}, separated by commas")


def seconds(least: float, most: float = DAY) -> Grammar[float]:
    """A duration: ``7.5`` or ``7.5s``."""

    def parse(value: object) -> float:
        number = float(_word(value).removesuffix("s"))
        if not least <= number <= most:
            raise ValueError(number)
        return number

    return Grammar(parse, f"seconds from {least:g} to {most:.0f}", "SECONDS")


def count(least: int, most: int) -> Grammar[int]:
    def parse(value: object) -> int:
        word = _word(value)
        if not _DIGITS.fullmatch(word) or not least <= int(word) <= most:
            raise ValueError(word)
        return int(word)

    return Grammar(parse, f"a number from {least} to {most}", "COUNT")
