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
from plugin.core.partition.run import Before


class Labelled(Struct, frozen=True):
    """The value that the label of this key had last, empty if it was removed. It counts once,
    unless it was ``refused``.
    """

    key: str
    value: str
    refused: bool = False


class Memory(Struct, frozen=True):
    """``order`` is what is wanted, ``None`` for nothing. ``option`` is the ``--partition-config``
    that was looked at last, and no order any more; ``None`` if nothing was ever ordered.
    ``changing`` are the GPUs that may be half-made, by UUID. ``places`` are the GPUs that the
    order's indices name.
    """

    order: Order | None = None
    option: str | None = None
    changing: Mapping[str, Before] = field(default_factory=lambda: MappingProxyType({}))
    labelled: Labelled | None = None
    places: Places = NO_PLACES

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
    """The Node's label is looked at."""

    now: Labelled
    option: str
    places: Places = NO_PLACES


Given = Start | Command | Label

NOTHING: Final = Memory()


def after(memory: Memory, given: Given) -> Memory:
    """What is wanted then."""
    match given:
        case Start(option, label):
            return _started(memory, option, label)
        case Command(order, option, places):
            seen = memory.labelled
            if seen is not None:
                seen = replace(seen, refused=False)  # what comes later holds
            return replace(memory, order=order, option=option, labelled=seen, places=places)
        case Label(now, option, places):
            seen = memory.label(now.key)
            if now == seen:
                return memory
            if now.refused or not now.value:
                return replace(memory, labelled=now)
            order = Order(now.value, Source.LABEL)
            return replace(memory, order=order, option=option, labelled=now, places=places)


def _started(memory: Memory, option: str, label: str) -> Memory:
    order = memory.order
    by_option = order is not None and order.source is Source.OPTION
    if memory.option == option:
        return memory
    if memory.option is not None and not by_option and memory.label(label).value:
        return memory  # the option counts when the label is gone
    if option:
        order = Order(option, Source.OPTION)
        return replace(memory, order=order, option=option, places=NO_PLACES)
    if by_option or memory.option is None:
        return replace(memory, order=None, option=None, places=NO_PLACES)
    return replace(memory, option=option)
