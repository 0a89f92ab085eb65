"""Words, marks and times as the page writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

#: JSON's types, as in the document of ``/api/v1/state``.
Json = Mapping[str, Any]

#: How a state is drawn where colours are not visible.
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
#: States of devices, in the order in which they are listed.
STATES = tuple(MARKS)[:6]
#: The end of the calendar.
_LATEST = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()
OUT_OF_USE = ("unhealthy", "cordoned", "withheld")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as seconds of the wall clock, in ISO 8601, and in relation to now."""

    at: str
    iso: str
    age: str


def moment(when: float, now: float) -> Moment:
    when = min(max(0.0, when), _LATEST)  # also of no number, which a file may hold
    iso = datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
    return Moment(f"{when:.0f}", iso, age(now - when))


def age(seconds: float) -> str:
    """The script writes ages in the same words and keeps them up to date."""
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
    """``namespace/pod`` of each holder, each pod once."""
    return list(dict.fromkeys(f"{who['namespace']}/{who['pod']}" for who in holders))


def title(device: Json) -> str:
    """A MIG device by its profile, a GPU by its product."""
    if is_gpu(device):
        return str(device["product"] or "GPU")
    return str(device["profile"] or "unreadable")


def path(device: Json, gpu: Json) -> str:
    """``GPU`` or ``GPU:device``, as the commands take it."""
    return str(gpu["index"]) if is_gpu(device) else f"{gpu['index']}:{device['index']}"


def is_gpu(device: Json) -> bool:
    return "migDevices" in device


def devices(document: Json) -> list[Json]:
    """All GPUs, each followed by its MIG devices."""
    return [device for gpu in document["gpus"] for device in (gpu, *gpu["migDevices"])]
