"""An order to partition: which configuration is wanted, and who wants it."""

from __future__ import annotations

import enum

from msgspec import Struct

from plugin.core.partition.configuration import Configuration
from plugin.core.partition.policy import Policy


class Source(enum.StrEnum):
    """Who wants a configuration."""

    OPTION = "option"  # --partition-config
    COMMAND = "command"  # partition apply
    LABEL = "label"  # the node's label


class Order(Struct, frozen=True):
    """``configuration`` is that of a file which came with the order; without it, the name is one of
    the node's. ``policy`` is ``None`` for that of the settings. ``id`` distinguishes
    orders by commands and the label, also after a restart.
    """

    name: str
    source: Source
    configuration: Configuration | None = None
    policy: Policy | None = None
    id: str = ""

    @property
    def key(self) -> str:
        """What it is known by, also after a restart."""
        return self.id or f"{self.source}:{self.name}"
