"""How soon a resource is registered again, by what ended its registration and how long it held."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

from plugin.loops.backoff import Backoff

FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 5.0
#: A registration that has lasted so long was a good one, whatever ends it.
WELL_SECONDS = 10.0
#: So many registrations in a row that did not last are no hiccup.
FLAPPING = 3
#: Whoever deletes our socket does not refuse us: so often in a row it is replaced at once.
FREE_DELETIONS = 20
#: After another plugin has gone: several sockets that go together cause one registration.
SETTLE_SECONDS = 1.0
#: Where one goes after the other, the registration waits no longer than so many times that.
MOST_SETTLES = 5
#: Until we have registered again every new pod may fail, so that must not take long. But each
#: registration costs kubelet a moment without devices, and a plugin of somebody else's may be in a
#: crash loop: with this pause that makes six registrations a minute at most.
LONGEST_SETTLE_SECONDS = 10.0


class Loss(enum.Enum):
    """Why a registration no longer holds; the value is for logs and the status."""

    OWN_SOCKET = "our socket was deleted"
    NEW_KUBELET = "kubelet made a new socket"
    STREAM = "kubelet ended ListAndWatch"
    RIVAL = "another plugin that may have taken the resource has gone"


class Pacing:
    """The history of one resource's registrations. Durations are in seconds."""

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
        # The first is tried again at once: the end of an older stream takes a good one with it.
        self._dropped = backoff(1)
        self._deletions = backoff(FREE_DELETIONS)
        self._rivals = Backoff(
            SETTLE_SECONDS, LONGEST_SETTLE_SECONDS, well=WELL_SECONDS, jitter=lambda: 1.0
        )

    def new_kubelet(self) -> None:
        """What an older one did says nothing about it."""
        self._refusals.reset()
        self._dropped.reset()

    def accepted(self) -> None:
        self._refusals.reset()

    def refused(self) -> float:
        """How long to wait after an attempt that did not lead to a registration."""
        return self._refusals.failed()

    def lost(self, loss: Loss, lasted: float) -> float:
        """How long to wait after the loss of a registration."""
        match loss:
            case Loss.STREAM:
                return self._dropped.failed(lasted)
            case Loss.OWN_SOCKET:
                return self._deletions.failed(lasted)
            case Loss.NEW_KUBELET | Loss.RIVAL:
                return 0.0

    def rival_gone(self, lasted: float) -> float:
        """How long to let things settle, after another plugin has gone, before giving up our own
        registration.
        """
        return self._rivals.failed(lasted)

    def is_flapping(self, lasted: float) -> bool:
        """Registrations did not last lately, and the present one has not proved better yet."""
        failures = max(self._dropped.failures, self._deletions.failures - FREE_DELETIONS)
        return failures >= FLAPPING and lasted < WELL_SECONDS
