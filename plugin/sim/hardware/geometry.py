"""Parses the description of a simulated node: ``NODE[:GEOMETRY]``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from plugin.core.quote import quote
from plugin.errors import SimulationError
from plugin.sim.hardware.cards import Card, Catalog, catalog

#: The driver's capability table covers this many GPUs.
MAX_GPUS = 32

#: Profiles of one GPU; ``None`` is MIG off, an empty tuple MIG on without instances.
GpuGeometry = tuple[str, ...] | None

#: At most three digits, so that a mistyped count is refused before it is built.
_COUNTED = re.compile(r"(?P<count>\d{1,3})x(?P<card>.+)")
_GPU_RANGE = re.compile(r"(?P<first>\d{1,3})(?:-(?P<last>\d{1,3}))?")
_TIMES = re.compile(r"(?P<name>[^*]+?)(?:\*(?P<count>\d{1,3}))?")
_GEOMETRIES = (
    "mig-off, all-disabled, all-enabled, all-balanced, all-PROFILE, or "
    "GPU=PROFILE*N,PROFILE;GPU-GPU=off"
)


def parse_fleet(node: str, known: Catalog | None = None) -> tuple[Card, ...]:
    """The cards of ``p4d.24xlarge``, ``2xa100-40gb+2xa30-24gb`` or
    ``p4d.24xlarge+g4dn.12xlarge``; `known` replaces the packaged tables.
    """
    tables = known or catalog()
    cards = tuple(
        itertools.chain.from_iterable(
            _parse_part(part.strip(), node, tables) for part in node.split("+")
        )
    )
    if len(cards) > MAX_GPUS:
        raise SimulationError(
            f"node {quote(node)} has {len(cards)} GPUs; at most {MAX_GPUS} can be simulated"
        )
    return cards


def _parse_part(part: str, node: str, known: Catalog) -> Sequence[Card]:
    if part in known.nodes:
        card, count = known.nodes[part]
        return [card] * count
    match = _COUNTED.fullmatch(part)
    name, count = (match["card"], int(match["count"])) if match else (part, 1)
    if name in known.cards and 1 <= count <= MAX_GPUS:
        return [known.cards[name]] * count
    raise SimulationError(
        f"unknown node {quote(part)} in {quote(node)}; nodes: {', '.join(known.nodes)}; "
        f"or cards with a count of 1 to {MAX_GPUS}, such as 2x{next(iter(known.cards))}: "
        f"{', '.join(known.cards)}"
    )


def parse_geometry(text: str, cards: Sequence[Card]) -> tuple[GpuGeometry, ...]:
    """Profiles per GPU; ``all-…`` skips GPUs without MIG."""
    text = text.strip()
    if text in {"", "mig-off", "all-disabled"}:
        return (None,) * len(cards)
    if text.startswith("all-"):
        return tuple(
            _whole_card(text.removeprefix("all-"), card) if card.mig_capable else None
            for card in cards
        )
    if "=" not in text:
        raise SimulationError(f"unknown geometry {quote(text)}; choices: {_GEOMETRIES}")
    result: dict[int, GpuGeometry] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        for gpu in _gpus_of(entry, len(cards)):
            if gpu in result:
                raise SimulationError(f"geometry {quote(text)} names GPU {gpu} twice")
            result[gpu] = _parse_gpu(entry.partition("=")[2], cards[gpu], gpu)
    return tuple(result.get(gpu) for gpu in range(len(cards)))


def named_gpus(text: str, count: int) -> frozenset[int]:
    """GPUs that a geometry configures: those left of ``=``, or all."""
    if "=" not in text:
        return frozenset(range(count))
    entries = filter(None, (part.strip() for part in text.split(";")))
    return frozenset(gpu for entry in entries for gpu in _gpus_of(entry, count))


def _whole_card(geometry: str, card: Card) -> GpuGeometry:
    if geometry == "enabled":
        return ()
    if geometry == "balanced":
        names = [
            next(p.name for p in card.profiles if p.nvml_index == index)
            for index in (0, 1, 2)[: _kinds(card)]
        ]
        return (names[0], *names)
    profile, slices = card.device_profile(geometry)
    return (profile.device_name(slices),) * (profile.max_instances * (profile.slices // slices))


def _kinds(card: Card) -> int:
    """The number of sizes in ``balanced``: 1g, 2g and 3g, or 1g and 2g on a card of four slices."""
    return 3 if card.compute_slices >= 7 else 2  # noqa: PLR2004 - the slices of a full-size card


def _gpus_of(entry: str, count: int) -> Iterable[int]:
    match = _GPU_RANGE.fullmatch(entry.partition("=")[0].strip())
    if match is None or "=" not in entry:
        raise SimulationError(
            f"bad entry {quote(entry)} in the geometry; write GPU=PROFILE*N,PROFILE or GPU-GPU=off"
        )
    first, last = int(match["first"]), int(match["last"] or match["first"])
    if not first <= last < count:
        raise SimulationError(
            f"entry {quote(entry)} names GPUs that the node does not have; its GPUs are "
            f"0-{count - 1}"
        )
    return range(first, last + 1)


def _parse_gpu(text: str, card: Card, gpu: int) -> GpuGeometry:
    text = text.strip()
    if text in {"off", "mig-off"}:
        return None
    if not card.mig_capable:
        raise SimulationError(f"GPU {gpu} ({card.key}) has no MIG; write {gpu}=off or leave it out")
    if text in {"on", "enabled", ""}:
        return ()
    if text == "balanced":
        return _whole_card(text, card)
    names: list[str] = []
    for item in text.split(","):
        match = _TIMES.fullmatch(item.strip())
        if match is None:
            raise SimulationError(
                f"bad profile {quote(item)} for GPU {gpu}; write PROFILE or PROFILE*N"
            )
        profile, slices = card.device_profile(match["name"].strip())
        names += [profile.device_name(slices)] * int(match["count"] or 1)
    return tuple(names)
