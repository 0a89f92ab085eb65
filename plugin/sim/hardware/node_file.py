"""A node that is described by a file: a recording of a real one, or cards that no table has."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from plugin.config import bounded
from plugin.core.quote import quote
from plugin.errors import SimulationError
from plugin.sim.hardware import recording
from plugin.sim.hardware.cards import Card, catalog, with_cards
from plugin.sim.hardware.geometry import parse_fleet
from plugin.sim.hardware.recording import Recording

#: 32 GPUs with seven devices each take half a MiB.
MOST_BYTES = 8 * bounded.MEBIBYTE


class Described(Struct, frozen=True):
    """The cards of a node and, where it was recorded, its state."""

    cards: tuple[Card, ...]
    recorded: Recording | None = None


def read(path: str) -> Described:
    """Raises :class:`SimulationError`."""
    try:
        document: Any = json.loads(bounded.read(path, MOST_BYTES))
    except OSError as error:
        raise SimulationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SimulationError(f"{path} is not JSON: {quote(str(error))}") from error
    match document:
        case {"gpus": list()}:
            found = recording.read(document, path)
            return Described(tuple(gpu.card for gpu in found.gpus), found)
        case {"cards": dict(cards), "node": str(node)}:
            return Described(_fleet(path, cards, node))
    raise SimulationError(
        f"{path} describes no node",
        'give what devices --output json prints, or {"cards": {NAME: …}, "node": "2xNAME"}',
    )


def _fleet(path: str, cards: dict[str, Any], node: str) -> tuple[Card, ...]:
    try:
        known = with_cards(catalog(), cards)
    except KeyError as error:
        raise SimulationError(f"a card of {path} has no {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SimulationError(f"a card of {path} is wrong: {quote(str(error))}") from error
    return parse_fleet(node, known)
