"""What is wanted, and what the GPUs had that change, on disk before the first step.

The present geometry is never in the file: that is the driver's. A file that cannot be read costs
what it said and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import asdict

from plugin.config import atomic, bounded, mig_configs
from plugin.core.partition.comparison import document
from plugin.core.partition.configuration import Configuration, Wanted
from plugin.core.partition.indices import Place
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Labelled, Memory
from plugin.core.partition.refusal import Refused
from plugin.core.partition.steps import Blocker, Occupant
from plugin.core.partition.tracks import Before
from plugin.errors import ConfigError

log = logging.getLogger(__name__)

_VERSION = 1
MOST_BYTES = 1024 * 1024
#: The rest is for what the GPUs had.
MOST_ORDER_BYTES = 256 * 1024

#: What is raised by a file that holds something else.
_CORRUPT = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    ConfigError,
)


class MemoryFile:
    """One file. Blocks; its owner has the lock of partitioning."""

    def __init__(self, path: Path, read: Callable[[Path, int], bytes] = bounded.read) -> None:
        """`read` returns a file's content, of so many bytes at most."""
        self.path, self._read = path, read

    def load(self) -> Memory | None:
        """``None`` where the file is missing or cannot be used. Raises TimeoutError where it cannot
        be asked now: what it says is not known.
        """
        try:
            content = self._read(self.path, MOST_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and bounded.is_away(error):
                raise TimeoutError(error.errno, error.strerror) from error
            log.warning(
                "what was wanted of partitioning cannot be read", extra={"reason": str(error)}
            )
            return None
        try:
            return _memory(json.loads(content))
        except _CORRUPT as error:
            log.warning("what was wanted of partitioning is corrupt", extra={"reason": repr(error)})
            return None

    def save(self, memory: Memory) -> None:
        """Raises OSError; and :class:`~plugin.errors.ConfigError` as :func:`check` does."""
        check(memory.order)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.replace(self.path, _encoded(memory))


def check(order: Order | None) -> None:
    """Raises :class:`~plugin.errors.ConfigError` for an order that could not be loaded again."""
    size = len(_encoded(Memory(order)))
    if size > MOST_ORDER_BYTES:
        raise ConfigError(
            f"the order takes {size} bytes on disk, at most {MOST_ORDER_BYTES} can be kept",
            "put the configuration into --partition-file, or write fewer entries",
        )


def _encoded(memory: Memory) -> bytes:
    return json.dumps(_written(memory), indent=1).encode()


def _written(memory: Memory) -> dict[str, Any]:
    order = memory.order
    return {
        "version": _VERSION,
        "order": None
        if order is None
        else {
            "name": order.name,
            "source": order.source.value,
            "policy": order.policy.value if order.policy else None,
            "id": order.id,
            "file": document([order.configuration]) if order.configuration else None,
        },
        "insteadOf": memory.option,
        "label": None if memory.labelled is None else asdict(memory.labelled),
        "gpus": {uuid: asdict(place) for uuid, place in sorted(memory.places.items())},
        "changing": {
            uuid: {
                "geometry": None
                if before.geometry is None
                else {"mig": before.geometry.mig, "devices": dict(before.geometry.devices)},
                "uuids": sorted(before.devices),
            }
            for uuid, before in sorted(memory.changing.items())
        },
        "refused": None if memory.refused is None else _refusal(memory.refused),
    }


def _refusal(refused: Refused) -> dict[str, Any]:
    return {
        "order": refused.order,
        "inTheWay": {
            uuid: [
                {
                    "uuid": each.uuid,
                    "path": each.path,
                    "holders": [asdict(holder) for holder in each.holders],
                }
                for each in blockers
            ]
            for uuid, blockers in sorted(refused.in_the_way.items())
        },
    }


def _memory(found: Mapping[str, Any]) -> Memory:
    if found["version"] != _VERSION:
        raise ValueError(f"version {found['version']}")
    given, places = found["order"], found.get("gpus", {})
    return Memory(
        None if given is None else _order(given),
        None if found["insteadOf"] is None else _text(found["insteadOf"]),
        MappingProxyType({_text(uuid): _before(each) for uuid, each in found["changing"].items()}),
        None if (label := found.get("label")) is None else _labelled(label),
        MappingProxyType({_text(uuid): _place(each) for uuid, each in places.items()}),
        None if (refused := found.get("refused")) is None else _refused(refused),
    )


def _order(given: Mapping[str, Any]) -> Order:
    policy = given["policy"]
    return Order(
        _text(given["name"]),
        Source(given["source"]),
        None if given["file"] is None else only(given["file"]),
        None if policy is None else Policy(policy),
        _text(given.get("id", "")),
    )


def _labelled(given: Mapping[str, Any]) -> Labelled:
    return Labelled(_text(given["key"]), _text(given["value"]), given["refused"] is True)


def _place(given: Mapping[str, Any]) -> Place:
    index = given["index"]
    if not isinstance(index, int) or isinstance(index, bool):
        raise TypeError(index)
    return Place(index, _text(given["pci_bus_id"]))


def _refused(given: Mapping[str, Any]) -> Refused:
    in_the_way = {
        _text(uuid): tuple(map(_blocker, blockers)) for uuid, blockers in given["inTheWay"].items()
    }
    return Refused(_text(given["order"]), MappingProxyType(in_the_way))


def _blocker(given: Mapping[str, Any]) -> Blocker:
    holders = (Occupant(_text(each["name"]), each["pod"] is True) for each in given["holders"])
    return Blocker(_text(given["uuid"]), _text(given["path"]), tuple(holders))


def only(given: object) -> Configuration:
    """The one configuration of a document in mig-parted's format. Raises
    :class:`~plugin.errors.ConfigError`.
    """
    found = mig_configs.parse("the configuration", given)
    if len(found) != 1:
        raise ConfigError(f"the configuration: there are {len(found)}", "give one")
    return next(iter(found.values()))


def _before(given: Mapping[str, Any]) -> Before:
    wanted = given["geometry"]
    devices = frozenset(map(_text, given["uuids"]))
    return Before(None if wanted is None else _wanted(wanted), devices)


def _wanted(given: Mapping[str, Any]) -> Wanted:
    if not given["mig"]:
        return Wanted(mig=False)
    return Wanted.of(mig_configs.profiles("the devices of a GPU", given["devices"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
