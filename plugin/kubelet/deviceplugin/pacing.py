"""Delays between registrations, by the cause of the loss and the duration of the registration."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

from plugin.loops.backoff import Backoff

FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 5.0
#: A registration that lasted this long was good, whatever ends it.
WELL_SECONDS = 10.0
#: Consecutive short registrations that count as flapping.
FLAPPING = 3
#: This many deletions of our socket in a row cause no delay: a deletion is no refusal.
FREE_DELETIONS = 20
#: Several plugins that end together cause one registration after this time.
SETTLE_SECONDS = 1.0
#: Limit of that time, as a multiple, for plugins that end one after the other.
MOST_SETTLES = 5
#: Until we have registered again every new pod may fail, so that must not take long. But each
#: registration costs kubelet a moment without devices, and a plugin of somebody else's may be in a
#: crash loop: with this pause that makes six registrations a minute at most.
LONGEST_SETTLE_SECONDS = 10.0


class Loss(enum.Enum):
    """Why a registration was lost; the value is for logs and the status."""

    OWN_SOCKET = "our socket was deleted"
    NEW_KUBELET = "kubelet made a new socket"
    STREAM = "kubelet ended ListAndWatch"
    RIVAL = "another plugin that may have taken the resource has gone"


class Pacing:
    """The registration history of one resource. Durations are in seconds."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        def backoff(free: int) -> Backoff:
            return Backoff(
                FIRST_DELAY_SECONDS,
                LONGEST_DELAY_SECONDS,
                well=WELL_SECONDS,
                free=free,
                jitter=jitter,
            )

        self._refusals = backoff(0)
        # The first loss has no delay: the end of an older stream drops a good registration.
        self._dropped = backoff(1)
        self._deletions = backoff(FREE_DELETIONS)
        self._rivals = Backoff(
            SETTLE_SECONDS, LONGEST_SETTLE_SECONDS, well=WELL_SECONDS, jitter=lambda: 1.0
        )

    def new_kubelet(self) -> None:
        """Forget failures of the previous kubelet."""
        self._refusals.reset()
        self._dropped.reset()

    def accepted(self) -> None:
        self._refusals.reset()

    def refused(self) -> float:
        """Delay after a failed attempt."""
        return self._refusals.failed()

    def lost(self, loss: Loss, lasted: float) -> float:
        """Delay after the loss of a registration."""
        match loss:
            case Loss.STREAM:
                return self._dropped.failed(lasted)
            case Loss.OWN_SOCKET:
                return self._deletions.failed(lasted)
            case Loss.NEW_KUBELET | Loss.RIVAL:
                return 0.0

    def rival_gone(self, lasted: float) -> float:
        """Time to wait for further departures before giving up our registration."""
        return self._rivals.failed(lasted)

    def is_flapping(self, lasted: float) -> bool:
        """Recent registrations were short, and the current one has not lasted yet."""
        failures = max(self._dropped.failures, self._deletions.failures - FREE_DELETIONS)
        return failures >= FLAPPING and lasted < WELL_SECONDS
