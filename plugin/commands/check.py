"""One answer of ``doctor``."""

from __future__ import annotations

import enum
from collections.abc import Collection

from msgspec import Struct

_MOST_SHOWN = 4


class Outcome(enum.IntEnum):
    """Ordered by severity; the value is the exit status."""

    PASS = 0
    WARN = 1
    FAIL = 2


class Check(Struct, frozen=True):
    """One answer; ``fix`` says what to do about anything but a pass."""

    name: str
    outcome: Outcome
    detail: str
    fix: str = ""


def shortened(names: Collection[str]) -> str:
    """The first of them, and how many more there are."""
    first = ", ".join(list(names)[:_MOST_SHOWN])
    return first + (f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else "")
