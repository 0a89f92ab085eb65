"""Whose order holds: that of the last command, label or option.

What was ordered is one frozen value, which outlasts the process; each thing that may order
something makes the next one of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.partition.indices import NO_PLACES, Places
from plugin.core.partition.order import Order, Source
from plugin.core.partition.refusal import Refused
from plugin.core.partition.tracks import Before


class Labelled(Struct, frozen=True):
    """The value that the label of this key had last, empty if it was removed. It counts once,
    unless it was ``refused``.
    """

    key: str
    value: str
    refused: bool = False


class Memory(Struct, frozen=True):
    """``order`` is what is wanted, ``None`` for nothing. ``option`` is the ``--partition-config``
    that orders nothing new: it has counted, or was replaced; ``None`` if nothing was ordered.
    ``changing`` are the GPUs that may be half-made, by UUID. ``places`` are the GPUs that the
    order's indices name, ``refused`` is what has ended it.
    """

    order: Order | None = None
    option: str | None = None
    changing: Mapping[str, Before] = field(default_factory=lambda: MappingProxyType({}))
    labelled: Labelled | None = None
    places: Places = NO_PLACES
    refused: Refused | None = None

    def label(self, key: str) -> Labelled:
        """What the label of this key had last."""
        found = self.labelled
        return found if found is not None and found.key == key else Labelled(key, "")


class Start(Struct, frozen=True):
    """A process begins to partition the node, with these settings."""

    option: str
    label: str = ""


class Command(Struct, frozen=True):
    """A command orders this, ``None`` for nothing any more; ``option`` is that of its process."""

    order: Order | None
    option: str
    places: Places = NO_PLACES


class Label(Struct, frozen=True):
    """The Node's label is looked at; ``id`` is that of its order, if it orders something."""

    now: Labelled
    option: str
    places: Places = NO_PLACES
    id: str = ""


Given = Start | Command | Label

NOTHING: Final = Memory()


def after(memory: Memory, given: Given) -> Memory:
    """What is wanted then, and what is known of it."""
    match given:
        case Start(option, label):
            return _started(memory, option, label)
        case Command(order, option, places):
            if memory.labelled is not None:  # what comes later holds
                memory = replace(memory, labelled=replace(memory.labelled, refused=False))
            return _ordered(memory, order, option, places)
        case Label(now, option, places, number):
            if now == memory.label(now.key):
                return memory
            memory = replace(memory, labelled=now)
            if now.refused or not now.value:
                return memory
            order = Order(now.value, Source.LABEL, id=number)
            return _ordered(memory, order, option, places)


def _started(memory: Memory, option: str, label: str) -> Memory:
    if memory.option == option:
        return memory
    order = memory.order
    by_option = memory.option is None or (order is not None and order.source is Source.OPTION)
    if memory.label(label).value and not by_option:
        return memory  # the option counts when the label is gone
    if option:
        return _ordered(memory, Order(option, Source.OPTION), option)
    return _ordered(memory, None, None) if by_option else replace(memory, option=option)


def _ordered(
    memory: Memory, order: Order | None, option: str | None, places: Places = NO_PLACES
) -> Memory:
    """Nothing that is known of the order before is about this one."""
    return replace(memory, order=order, option=option, places=places, refused=None)
