"""Texts of the driver, which may hold anything: pynvml decodes them as strict UTF-8 and raises."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from plugin.core.quote import quote
from plugin.driver.nvml.library import absurd, ask, call


class Text(Struct, frozen=True):
    """``damaged`` says that some of it was not UTF-8 and has been replaced."""

    value: str
    damaged: bool = False

    @classmethod
    def of(cls, raw: str | bytes) -> Text:
        if isinstance(raw, str):
            return cls(raw)
        value = raw.decode(errors="replace")
        return cls(value, value.encode() != raw)

    def sound(self, what: str) -> str:
        """The text. Raises :class:`DriverCallFailed` where it is damaged and so means nothing."""
        if self.damaged:
            raise absurd(what, f"the text {quote(self.value)}")
        return self.value


def text(what: str, function: Callable[..., Any], *handles: Any) -> str:
    """A text without which nothing can be done. Raises :class:`DriverCallFailed`."""
    return Text.of(call(what, _raw(function), *handles)).sound(what)


def ask_text(function: Callable[..., Any], *handles: Any) -> Text | None:
    """A text for people; ``None`` where the card or the driver has none."""
    raw = ask(_raw(function), *handles)
    return None if raw is None else Text.of(raw)


def field(structure: ctypes.Structure, name: str) -> Text:
    """A field of one of pynvml's structures."""
    return Text.of(ctypes.Structure.__getattribute__(structure, name))


def _raw(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside pynvml's decorator, which decodes its result."""
    inner: Callable[..., Any] = getattr(function, "__wrapped__", function)
    return inner
