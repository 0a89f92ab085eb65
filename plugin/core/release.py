"""A release of the driver: for a limited time this process holds nothing of it, so that a GPU can
be reset or the kernel module reloaded.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from plugin.core.grammars import DAY
from plugin.core.grammars import seconds as seconds_from
from plugin.core.inventory.model import Inventory
from plugin.core.reasons import Code, Reason

#: How long a release lasts unless an operator says otherwise, and how long at most: nobody watches
#: the GPUs meanwhile.
DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS = 300.0, 1.0, 3600.0

#: What ``--for`` takes.
LIMIT = seconds_from(LEAST_SECONDS, MOST_SECONDS)


class Phase(enum.Enum):
    """How far a release has come."""

    LEAVING = "leaving"  # it is asked for, and something of the driver may still be held
    RELEASED = "released"  # nothing is held: that was looked at
    RETURNING = "returning"  # it has ended, and no scan has shown yet what is there now


class Release(Struct, frozen=True):
    """``gpus`` are the UUIDs of the GPUs that are about to be reset, ``until`` is on the state's
    timeline, and ``left`` is what was still held when that was last looked at, a sentence each.
    """

    gpus: frozenset[str]
    until: float
    phase: Phase = Phase.LEAVING
    left: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether the driver is to be used again."""
        return self.phase is Phase.RETURNING


#: Against the devices of a released GPU.
RELEASED = Reason(
    Code.RELEASED,
    "the driver is released so that the GPU can be reset; mig-device-plugin resume ends that",
)


def describe(release: Release, inventory: Inventory) -> str:
    """One sentence about the node, for people."""
    match release.phase:
        case Phase.LEAVING if release.left:
            return f"the driver cannot be released: {'; '.join(release.left)}"
        case Phase.LEAVING:
            return "the driver is being released"
        case Phase.RETURNING:
            return "the driver is being opened again after a release"
    found = [gpu.path for gpu in inventory.gpus if gpu.uuid in release.gpus]
    out = f"GPU {', '.join(found)} out of service" if found else "no GPU out of service"
    return f"the driver is released until {_time_of_day(release.until)} UTC, {out}"


def _time_of_day(seconds: float) -> str:
    minutes, second = divmod(int(seconds) % DAY, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"
