"""When a request may be tried: pauses after failures, without a clock of its own."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http import HTTPStatus

from msgspec import Struct, field

from plugin.loops.backoff import delays

#: Each pause is between half and all of its step: in the end one to two minutes.
FIRST_SECONDS, CAP_SECONDS = 2.0, 120.0
#: Failing calls remembered; each is the path of an object.
_MOST_CALLS = 64
#: A conflict is solved by reading again, once or twice without a pause.
_FREE: dict[int, int] = {HTTPStatus.CONFLICT: 2, HTTPStatus.GONE: 2}
#: Failures in a row after which a call does not fail by chance.
_PERSISTENT = 3

#: In an outage the call with fewer failures goes first: seconds for each failure, and their limit.
_YIELD_SECONDS, _MOST_YIELDS = 0.05, 20


class _Failing(Struct):
    """A call whose last attempts have failed; ``answered``: meanwhile the API server did answer,
    this call or another.
    """

    delays: Iterator[float]
    failures: int = 0
    until: float = 0.0
    answered: bool = False


class _Outage(Struct):
    """``general`` if a failure was one that every call would have; ``calls`` are those that have
    failed. ``step`` is the present pause.
    """

    delays: Iterator[float]
    failures: int = 0
    until: float = 0.0
    step: float = 0.0
    general: bool = False
    calls: set[str] = field(default_factory=set)


class Pacing:
    """Pauses of each call, and of all together while no request succeeds.

    A call that fails is tried again after a growing pause, whoever asks. If nothing at all has
    succeeded since the first failure it is an outage: one attempt at a time, whichever call makes
    it. Times are those of one monotonic clock.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._calls: OrderedDict[str, _Failing] = OrderedDict()
        self._outage: _Outage | None = None

    @property
    def failures(self) -> int:
        """Failed attempts of the outage; 0 without one."""
        return self._outage.failures if self._outage else 0

    def wait(self, now: float) -> float:
        """Seconds until a call that has not failed may be tried."""
        if self._outage is None or not self._outage.general:
            return 0.0
        return max(0.0, self._outage.until - now)

    def wait_for(self, call: str, now: float) -> float:
        """Seconds until this call may be tried."""
        failing, outage = self._calls.get(call), self._outage
        if failing is None:
            return self.wait(now)
        until = failing.until
        if outage is not None and (outage.general or call in outage.calls):
            until = max(until, outage.until + _YIELD_SECONDS * min(failing.failures, _MOST_YIELDS))
        return max(0.0, until - now)

    def persists(self, call: str) -> bool:
        """Whether this call fails again and again while the API server answers: no outage."""
        failing = self._calls.get(call)
        return failing is not None and failing.answered and failing.failures >= _PERSISTENT

    def begin(self, now: float) -> None:
        """An attempt begins: in an outage the others wait for its end or for their turn."""
        if self._outage is not None:
            self._outage.until = max(self._outage.until, now + self._outage.step)

    def succeeded(self, call: str) -> None:
        """The API server did what was asked, or its answer is as good."""
        self._calls.pop(call, None)
        self._answered()

    def refused(self, call: str, now: float, code: int, retry_after: float | None = None) -> None:
        """The API server answered this call with an error that does not concern the others."""
        failing = self._failing(call)
        failing.failures += 1
        self._answered()
        if failing.failures > _FREE.get(code, 0):
            failing.until = now + max(next(failing.delays), retry_after or 0.0)

    def away(
        self, call: str, now: float, retry_after: float | None = None, *, general: bool = True
    ) -> None:
        """There was no answer, or one that may concern every call. `general` is false for an error
        of 500: others are then held up only once they have failed, too. So it is for a call that
        persists in failing.
        """
        failing = self._failing(call)
        failing.failures += 1
        failing.until = now + max(next(failing.delays), retry_after or 0.0)
        outage = self._outage
        if outage is None:
            outage = self._outage = _Outage(self._new_delays())
        outage.failures += 1
        outage.general = outage.general or (general and not self.persists(call))
        outage.calls.add(call)
        outage.step = max(next(outage.delays), retry_after or 0.0)
        outage.until = max(outage.until, now + outage.step)

    def _answered(self) -> None:
        self._outage = None
        for failing in self._calls.values():
            failing.answered = True

    def _failing(self, call: str) -> _Failing:
        failing = self._calls.setdefault(call, _Failing(self._new_delays()))
        self._calls.move_to_end(call)
        if len(self._calls) > _MOST_CALLS:
            self._calls.popitem(last=False)
        return failing

    def _new_delays(self) -> Iterator[float]:
        return delays(FIRST_SECONDS, CAP_SECONDS, self._jitter)
