"""Shortens values from outside for messages."""

from __future__ import annotations

import reprlib

MOST_CHARACTERS = 200
_MOST_BITS = 200


class _Quote(reprlib.Repr):
    """Reads only the beginning of a value, so that large or recursive values cost little."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxother = MOST_CHARACTERS

    def repr_int(self, x: int, level: int) -> str:
        del level
        # Python refuses to format numbers of more than a few thousand digits.
        return repr(x) if x.bit_length() <= _MOST_BITS else f"<number of {x.bit_length()} bits>"


_QUOTE = _Quote()


def quote(value: object) -> str:
    """``repr`` of the value, in at most :data:`MOST_CHARACTERS`."""
    return shorten(_QUOTE.repr(value))


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """At most `most` characters, with an ellipsis if cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shorten_bytes(text: str, most: int) -> str:
    """At most `most` bytes of UTF-8, with an ellipsis if cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return encoded.decode()
    return encoded[: most - len("…".encode())].decode("utf-8", "ignore") + "…"
