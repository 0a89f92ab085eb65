"""The GPUs: memory slices as a rail of tiles, with notes below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from plugin.core.reasons import Scope
from plugin.web.page.sheets import Sheet, sheet
from plugin.web.page.words import (
    OUT_OF_USE,
    STATES,
    Json,
    Moment,
    count,
    devices,
    gib,
    is_gpu,
    moment,
    path,
    pods,
    slices,
    title,
)

#: The style sheet has classes up to this number; no card has more than eight slices.
_MOST_SLICES = 16


class Tile(Struct, frozen=True):
    """A device on the rail. The pod's name may break after its namespace."""

    id: str
    title: str
    state: str
    slices: str = ""
    namespace: str = ""
    pod: str = ""
    more: str = ""


class Piece(Struct, frozen=True):
    """A stretch of the rail: the compute instances of a GPU instance, or a free run."""

    start: int
    size: int
    tiles: tuple[Tile, ...] = ()
    free: str = ""
    why: str = ""
    slices: str = ""


class Note(Struct, frozen=True):
    """A reason, the devices it takes out of use, and their pods."""

    state: str
    text: str
    where: str
    began: Moment | None
    by_operator: bool
    pods: str


class Rail(Struct, frozen=True):
    """``whole``: the GPU is the only device. ``loose``: placements are unknown. Otherwise
    ``placed`` on `total` slices.
    """

    kind: str
    tiles: tuple[Tile, ...] = ()
    pieces: tuple[Piece, ...] = ()
    total: int = 0


class GpuView(Struct, frozen=True):
    index: int
    facts: tuple[str, ...]
    state: str | None
    rail: Rail
    notes: tuple[Note, ...]
    sheets: tuple[Sheet, ...]


def legend(document: Json) -> list[str]:
    """The states on the page."""
    shown = {device["state"] for device in devices(document)}
    return [state for state in STATES if state in shown]


def gpus(document: Json, now: float) -> list[GpuView]:
    partition = document["partition"]
    wanted = {each["uuid"]: each for each in partition["gpus"]} if partition else {}
    return [_gpu(gpu, wanted.get(gpu["uuid"]), now) for gpu in document["gpus"]]


def _gpu(gpu: Json, wanted: Json | None, now: float) -> GpuView:
    facts = (
        gpu["product"],
        gib(gpu["memoryMiB"] * 2**20) if gpu["memoryMiB"] else "",
        _mode(gpu["mig"]),
        f"NUMA {gpu['numa']}" if gpu["numa"] is not None else "",
        gpu["pciBusId"],
        f"wanted: {wanted['wanted']} ({wanted['state']})"
        if wanted and wanted["state"] != "applied"
        else "",
    )
    whole = _is_whole(gpu)
    shown = [gpu] if whole else gpu["migDevices"]
    return GpuView(
        index=gpu["index"],
        facts=tuple(filter(None, facts)),
        state=None if whole else gpu["state"],
        rail=_rail(gpu),
        notes=tuple(_notes(gpu, now)),
        sheets=tuple(sheet(_id(device), device, gpu, now) for device in shown),
    )


def _is_whole(gpu: Json) -> bool:
    """Whether to draw the GPU itself: it has neither instances nor free slices."""
    return not (gpu["migDevices"] or gpu["emptyInstances"] or gpu["freeRuns"])


def _mode(mig: Json | None) -> str:
    if mig is None:
        return ""
    mode = f"MIG {'on' if mig['current'] else 'off'}"
    if mig["current"] == mig["pending"]:
        return mode
    return f"{mode}, {'on' if mig['pending'] else 'off'} after a reset"


# ---- the rail


def _rail(gpu: Json) -> Rail:
    found = gpu["migDevices"]
    if _is_whole(gpu):
        return Rail("whole", (_tile(gpu),))
    if any(device["placement"] is None for device in found):
        return Rail("loose", tuple(map(_tile, found)))
    pieces = (
        *_instances(found),
        *map(_empty, gpu["emptyInstances"]),
        *map(_free, gpu["freeRuns"]),
    )
    total = max([gpu["memorySlices"], *(piece.start + piece.size for piece in pieces)])
    ordered = tuple(sorted(pieces, key=lambda piece: piece.start))
    return Rail("placed", pieces=ordered, total=min(total, _MOST_SLICES))


def _instances(found: Iterable[Json]) -> Iterator[Piece]:
    """A piece per GPU instance, with its compute instances side by side."""
    instances: dict[int, list[Json]] = {}
    for device in found:
        instances.setdefault(device["gi"], []).append(device)
    for inside in instances.values():
        at = inside[0]["placement"]
        yield Piece(at["start"], at["size"], tuple(map(_tile, inside)))


def _empty(instance: Json) -> Piece:
    """A GPU instance without compute instances."""
    at, profile = instance["placement"], instance["profile"]
    what = f"empty {profile}" if profile else "empty instance"
    return Piece(at["start"], at["size"], free=what, why="no compute instance", slices=slices(at))


def _free(run: Json) -> Piece:
    why = "no compute slice left" if run["usable"] is False else "no instance"
    free = count(run["size"], "free slice")
    return Piece(run["start"], run["size"], free=free, why=why, slices=slices(run))


def _tile(device: Json) -> Tile:
    at, names = device.get("placement"), pods(device["holders"])
    namespace, _, pod = names[0].partition("/") if names else ("", "", "")
    return Tile(
        id=_id(device),
        title=title(device),
        state=device["state"] or "withheld",
        slices=slices(at) if at else "",
        namespace=namespace,
        pod=pod,
        more=f" and {len(names) - 1} more" if len(names) > 1 else "",
    )


def _id(device: Json) -> str:
    return re.sub(r"[^\w-]", "-", device["uuid"], flags=re.ASCII)


# ---- notes


def _notes(gpu: Json, now: float) -> Iterator[Note]:
    """Each reason once, with its devices; reasons of the whole node are shown above."""
    hit: dict[tuple[str, str], list[Json]] = {}
    reasons: dict[tuple[str, str], Json] = {}
    for device in (gpu, *gpu["migDevices"]):
        for reason in device["reasons"]:
            if reason["scope"] == Scope.DEVICE:
                key = reason["code"], reason["text"]
                hit.setdefault(key, []).append(device)
                reasons.setdefault(key, reason)
    for key, found in hit.items():
        yield _note(gpu, found, reasons[key], now)


def _note(gpu: Json, hit: list[Json], reason: Json, now: float) -> Note:
    where = (
        f"all of GPU {gpu['index']}"
        if is_gpu(hit[0])
        else ", ".join(f"{title(device)} at {path(device, gpu)}" for device in hit)
    )
    return Note(
        state=reason["code"] if reason["code"] in OUT_OF_USE else "unhealthy",
        text=reason["text"],
        where=where,
        began=None if reason["since"] is None else moment(reason["since"], now),
        by_operator=reason["clears"] == "operator",
        pods=", ".join(sorted({pod for device in hit for pod in pods(device["holders"])})),
    )
