"""Simulated cards, MIG profiles and node types, from ``cards.json``."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from plugin.core.inventory.model import Engines, Placement
from plugin.core.quote import quote
from plugin.errors import SimulationError

_COMPUTE_PREFIX = re.compile(r"(?P<slices>\d+)c\.(?P<rest>.+)")


class CardProfile(Struct, frozen=True):
    """A GPU instance profile of one card.

    ``id`` is for creating instances, ``nvml_index`` for querying the profile. ``compute_slices``
    are the sizes of its compute instances.
    """

    name: str
    id: int
    nvml_index: int
    slices: int
    max_instances: int
    memory_mib: int
    multiprocessors: int
    engines: Engines
    placements: tuple[Placement, ...]
    compute_slices: tuple[int, ...]

    @property
    def media(self) -> bool:
        """The profile includes the card's only set of media engines (``+me``, ``+me.all``)."""
        return "+me" in self.name

    def multiprocessors_of(self, compute: int) -> int:
        """Multiprocessors of a compute instance with ``compute`` slices."""
        return self.multiprocessors * compute // self.slices

    def device_name(self, compute: int) -> str:
        """Name of a device with a compute instance of ``compute`` slices."""
        return self.name if compute == self.slices else f"{compute}c.{self.name}"


class Card(Struct, frozen=True):
    """One product. Cards without MIG have no profiles and no slices."""

    key: str
    product: str
    pci_device_id: int
    memory_bytes: int
    compute_capability: tuple[int, int]
    architecture: str
    compute_slices: int
    memory_slices: int
    profiles: tuple[CardProfile, ...]

    @property
    def mig_capable(self) -> bool:
        return bool(self.profiles)

    @property
    def mig_mode_needs_reset(self) -> bool:
        """Ampere switches MIG mode at the next GPU reset, later architectures at once."""
        return self.architecture == "ampere"

    @property
    def remaps_rows(self) -> bool:
        """Ampere and later remap memory rows, earlier cards retire pages."""
        return self.architecture != "turing"

    @property
    def samples_instances(self) -> bool:
        """The driver has GPM, activity per GPU instance (Hopper and later)."""
        return self.compute_capability >= (9, 0)

    def profile(self, name: str) -> CardProfile:
        """The profile called ``name``; accepts ``1g.5gb.me`` for ``1g.5gb+me``."""
        wanted = canonical(name)
        for profile in self.profiles:
            if profile.name == wanted:
                return profile
        choices = ", ".join(p.name for p in self.profiles) or "none, it has no MIG"
        raise SimulationError(f"profile {quote(name)} is unknown on {self.key}; choices: {choices}")

    def device_profile(self, name: str) -> tuple[CardProfile, int]:
        """Split a device's name: ``3g.20gb`` is (3g.20gb, 3), ``1c.3g.20gb`` is (3g.20gb, 1)."""
        match = _COMPUTE_PREFIX.fullmatch(name)
        if match is None:
            profile = self.profile(name)
            return profile, profile.slices
        profile, slices = self.profile(match["rest"]), int(match["slices"])
        if slices not in profile.compute_slices:
            choices = ", ".join(f"{c}c" for c in profile.compute_slices)
            raise SimulationError(
                f"profile {quote(name)} is unknown on {self.key}; {profile.name} takes {choices}"
            )
        return profile, slices


class Catalog(Struct, frozen=True):
    """Cards and node types (``{name: (card, number of GPUs)}``) by name."""

    cards: dict[str, Card]
    nodes: dict[str, tuple[Card, int]]


def canonical(name: str) -> str:
    """The driver's name of a profile: a plus before attributes, where resource names have a dot."""
    head, unit, attributes = name.partition("gb")
    return f"{head}{unit}+{attributes[1:]}" if attributes.startswith(".") else name


@functools.cache
def catalog() -> Catalog:
    """The packaged tables, read on first use."""
    raw = _tables()
    cards = _cards(raw["cards"])
    return Catalog(
        cards, {name: (cards[card], count) for name, (card, count) in raw["nodes"].items()}
    )


def with_cards(known: Catalog, more: dict[str, Any]) -> Catalog:
    """The tables with cards from elsewhere, written as in ``cards.json``; ``twin_of`` may name a
    packaged one. Raises KeyError, TypeError, AttributeError or ValueError for a bad one.
    """
    cards = _cards(more)
    for card in cards.values():
        _check(card)
    return Catalog({**known.cards, **cards}, known.nodes)


@functools.cache
def _tables() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(Path(__file__).with_name("cards.json").read_bytes())
    return raw


def _cards(raw: dict[str, Any]) -> dict[str, Card]:
    tables = _tables()
    sizes = tables["compute_instance_profiles"]
    compute = {int(k): tuple(v) for k, v in sizes.items() if k.isdigit()}
    every = {**tables["cards"], **raw}
    return {
        key: _card(key, {**every.get(value.get("twin_of"), {}), **value}, compute)
        for key, value in raw.items()
    }


def _check(card: Card) -> None:
    """What nothing notices in a table of ours. Raises ValueError."""
    for names in ("id", "nvml_index", "name"):
        seen = [getattr(profile, names) for profile in card.profiles]
        if len(set(seen)) < len(seen):
            raise ValueError(f"{card.key} has two profiles of one {names}")
    for profile in card.profiles:
        if not profile.placements:
            raise ValueError(f"{profile.name} of {card.key} has no placement")
        for at in profile.placements:
            if at.start < 0 or at.size < 1 or at.end > card.memory_slices:
                raise ValueError(f"a placement of {profile.name} is not on {card.key}")


def _card(key: str, raw: dict[str, Any], compute: dict[int, tuple[int, ...]]) -> Card:
    major, minor = raw["compute_capability"]
    return Card(
        key=key,
        product=raw["product"],
        pci_device_id=int(raw["pci_device_id"], 16),
        memory_bytes=raw["memory_bytes"],
        compute_capability=(major, minor),
        architecture=raw["architecture"],
        compute_slices=raw["compute_slices"],
        memory_slices=raw["memory_slices"],
        profiles=tuple(_profile(p, compute) for p in raw.get("profiles", ())),
    )


def _profile(raw: dict[str, Any], compute: dict[int, tuple[int, ...]]) -> CardProfile:
    return CardProfile(
        name=raw["name"],
        id=raw["id"],
        nvml_index=raw["nvml_index"],
        slices=raw["slices"],
        max_instances=raw["max_instances"],
        memory_mib=raw["memory_mb"],
        multiprocessors=raw["multiprocessors"],
        engines=Engines(
            copy=raw["copy_engines"],
            decoder=raw["decoders"],
            encoder=raw["encoders"],
            jpeg=raw["jpeg"],
            ofa=raw["ofa"],
        ),
        placements=tuple(Placement(start, size) for start, size in raw["placements"]),
        compute_slices=compute[raw["slices"]],
    )
