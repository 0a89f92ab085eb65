"""Texts, marks and times on the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from msgspec import Struct

#: The document of ``/api/v1/state``, or a part of it.
Json = Mapping[str, Any]

#: A state's mark, for readers who cannot see its colour.
MARKS: Mapping[str, str] = MappingProxyType(
    {
        "allocated": "●",
        "free": "○",
        "healthy": "○",
        "unhealthy": "✕",
        "cordoned": "◆",
        "withheld": "–",
        "ready": "✓",
        "warning": "!",
    }
)
#: Device states in display order.
STATES = tuple(MARKS)[:6]
#: The last representable time.
_LATEST = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()
OUT_OF_USE = ("unhealthy", "cordoned", "withheld")


class Moment(Struct, frozen=True):
    """A time: in seconds of the wall clock, in ISO 8601, and relative to now."""

    at: str
    iso: str
    age: str


def moment(when: float, now: float) -> Moment:
    when = min(max(0.0, when), _LATEST)  # files may contain NaN
    iso = datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
    return Moment(f"{when:.0f}", iso, age(now - when))


def age(seconds: float) -> str:
    """The page's script formats ages in the same way."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now" if seconds < 5 else f"{max(seconds, 0) // 5 * 5:.0f} s ago"  # noqa: PLR2004 — as often as the script asks


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB".replace(".0 ", " ")


def slices(at: Json) -> str:
    last = at["start"] + at["size"] - 1
    return f"slice {at['start']}" if last == at["start"] else f"slices {at['start']} to {last}"


def pods(holders: Iterable[Json]) -> list[str]:
    """Each holder's ``namespace/pod``, without duplicates."""
    return list(dict.fromkeys(f"{who['namespace']}/{who['pod']}" for who in holders))


def title(device: Json) -> str:
    """A MIG device's profile or a GPU's product."""
    if is_gpu(device):
        return str(device["product"] or "GPU")
    return str(device["profile"] or "unreadable")


def path(device: Json, gpu: Json) -> str:
    """``GPU`` or ``GPU:device``, as the commands accept it."""
    return str(gpu["index"]) if is_gpu(device) else f"{gpu['index']}:{device['index']}"


def is_gpu(device: Json) -> bool:
    return "migDevices" in device


def devices(document: Json) -> list[Json]:
    """All GPUs, each followed by its MIG devices."""
    return [device for gpu in document["gpus"] for device in (gpu, *gpu["migDevices"])]
