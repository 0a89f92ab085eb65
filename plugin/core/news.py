"""What a step of the state has to tell; :mod:`plugin.state.reports` makes log lines of it."""

from __future__ import annotations

import enum

from msgspec import Struct

from plugin.core.health.events import DriverEvent
from plugin.core.health.faults import Fault
from plugin.core.reasons import Reason


class Judged(Struct, frozen=True):
    """Events or probes were judged to be these faults."""

    faults: tuple[Fault, ...]


class UnknownInstance(Struct, frozen=True):
    """An event named an instance that no scan has shown."""

    event: DriverEvent


class ReasonCleared(Struct, frozen=True):
    """A reason against a device ended by its rule."""

    uuid: str
    reason: Reason


class ClockSet(Struct, frozen=True):
    """The wall clock was set, by so many seconds."""

    seconds: float


class Command(enum.Enum):
    """What an operator has done to a device."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    CLEAR = "clear"


class Commanded(Struct, frozen=True):
    """An operator's command changed the ledger, or found it as wanted."""

    command: Command
    uuid: str


class ReleaseAsked(Struct, frozen=True):
    """The driver is to be released for so many seconds. ``gpus`` are about to be reset."""

    gpus: tuple[str, ...]
    seconds: float


class ReleaseDone(Struct, frozen=True):
    """Nothing of the driver is held any more, or ``left`` is."""

    left: tuple[str, ...]


class ReleaseOver(Struct, frozen=True):
    """The driver is to be used again: ``expired`` after its time, else by command."""

    expired: bool


News = (
    Judged
    | UnknownInstance
    | ReasonCleared
    | ClockSet
    | Commanded
    | ReleaseAsked
    | ReleaseDone
    | ReleaseOver
)
