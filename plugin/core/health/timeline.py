"""One timeline for all times that the state keeps, from two clocks.

Durations (quiet periods, windows, absences) must not depend on the wall clock, which may be set
forward or back at any moment. People and files need the wall clock. So a time is a reading of the
monotonic clock plus an offset, chosen so that it is the wall clock's time as well. When the wall
clock is set, the offset follows and every time that is kept moves along: how long ago something was
stays the same, and what people see agrees with the clock they have now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.health.ledger import Entry, Ledger
from plugin.core.health.recovery import GpuHealth
from plugin.core.reasons import Reason

#: A smaller difference between the wall clock and the timeline is drift, and is left alone.
TOLERANCE_SECONDS = 1.0


class Moment(Struct, frozen=True):
    """Both clocks, read together, in seconds. The monotonic one is the same for all processes of a
    boot.
    """

    wall: float
    monotonic: float

    @property
    def offset(self) -> float:
        """What makes the wall clock of the monotonic one."""
        return self.wall - self.monotonic


def clock_step(offset: float, moment: Moment) -> float:
    """By how many seconds the wall clock was set since the timeline got its offset; 0.0 if it was
    not.
    """
    by = moment.offset - offset
    return by if abs(by) >= TOLERANCE_SECONDS else 0.0


def restored_ledger(ledger: Ledger, saved: float | None, moment: Moment) -> Ledger:
    """A ledger of an earlier process on the timeline that begins at `moment`. `saved` is the offset
    of its own timeline if that was of this boot: then its times keep their age even if the wall
    clock was set while no process ran. None is later than now.
    """
    by = 0.0 if saved is None else clock_step(saved, moment)
    return moved_ledger(ledger, by, latest=moment.wall)


def moved_ledger(ledger: Ledger, by: float, *, latest: float = math.inf) -> Ledger:
    """Every time of the ledger moved, to `latest` at most."""
    return MappingProxyType({uuid: _entry(entry, by, latest) for uuid, entry in ledger.items()})


def moved_health(health: Mapping[str, GpuHealth], by: float) -> Mapping[str, GpuHealth]:
    return MappingProxyType(
        {
            uuid: replace(
                each,
                good_since=_time(each.good_since, by),
                reset_seen=_time(each.reset_seen, by),
            )
            for uuid, each in health.items()
        }
    )


def _entry(entry: Entry, by: float, latest: float) -> Entry:
    return replace(
        entry,
        reasons=tuple(_reason(reason, by, latest) for reason in entry.reasons),
        recovered=_time(entry.recovered, by, latest),
        incident=_time(entry.incident, by, latest),
        applications=tuple(min(time + by, latest) for time in entry.applications),
        last_fault=_time(entry.last_fault, by, latest),
        absent_since=_time(entry.absent_since, by, latest),
    )


def _reason(reason: Reason, by: float, latest: float) -> Reason:
    return replace(
        reason, since=_time(reason.since, by, latest), last=_time(reason.last, by, latest)
    )


def _time(time: float | None, by: float, latest: float = math.inf) -> float | None:
    return None if time is None else min(time + by, latest)
