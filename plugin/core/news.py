"""What a step of the state has to tell; :mod:`plugin.state.reports` makes log lines of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from plugin.core.health.events import DriverEvent
from plugin.core.health.faults import Fault
from plugin.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Judged:
    """Events or probes were judged to be these faults."""

    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class UnknownInstance:
    """An event named an instance that no scan has shown."""

    event: DriverEvent


@dataclass(frozen=True, slots=True)
class ReasonCleared:
    """A reason against a device ended by its rule."""

    uuid: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The wall clock was set, by so many seconds."""

    seconds: float


class Command(enum.Enum):
    """What an operator has done to a device."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Commanded:
    """An operator's command changed the ledger, or found it as wanted."""

    command: Command
    uuid: str


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """The driver is to be released for so many seconds. ``gpus`` are about to be reset."""

    gpus: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ReleaseDone:
    """Nothing of the driver is held any more, or ``left`` is."""

    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReleaseOver:
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
