"""Which order is the newest, which one is being carried out, and how far that goes on."""

from __future__ import annotations

import enum

from plugin.core.partition.order import Order


class Extent(enum.Enum):
    """How far a change that is under way goes on."""

    STEP = enum.auto()  # to the end of the step in hand
    GPU = enum.auto()  # to the end of the GPU in hand
    ALL = enum.auto()


class Course:
    """``newest`` is what is wanted, ``taken`` what the executor's rounds are about. ``stops``: what
    is wanted is not carried out, and stays wanted.
    """

    def __init__(self) -> None:
        self.newest: Order | None = None
        self.taken: Order | None = None
        self.stops = self._stopped = False

    def take(self) -> bool:
        """Be about the newest from now on; whether that is another one."""
        before, self.taken, self._stopped = self.taken, self.newest, self.stops
        return before is not self.newest

    @property
    def is_current(self) -> bool:
        """Nothing has come since it was taken."""
        return self.newest is self.taken and self.stops is self._stopped

    @property
    def is_to_be_done(self) -> bool:
        return self.taken is not None and not self._stopped

    def extent(self) -> Extent:
        if self.is_current:
            return Extent.ALL
        if self.newest is self.taken or self.newest is None:
            return Extent.GPU  # what is taken back is no reason to leave it half-made
        return Extent.STEP  # what is wanted now is planned from what is there then
