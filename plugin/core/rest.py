"""When background work that nobody looks at may rest."""

from __future__ import annotations

from msgspec import Struct

#: So many intervals without a look: of the work, or of those who look, whichever are longer.
INTERVALS = 3
#: Who looks more rarely than this has no interval. Prometheus forgets a series after as long.
LONGEST_INTERVAL_SECONDS = 300.0
#: The interval of somebody who has looked once: most scrape every minute or more often.
USUAL_INTERVAL_SECONDS = 60.0


class Looks(Struct, frozen=True):
    """When somebody last looked, and how regularly: times of one clock, in seconds.

    Two that look in turn make uneven intervals, so ``interval`` is the longest of late: it shrinks
    by half at most with each look.
    """

    last: float
    interval: float = USUAL_INTERVAL_SECONDS

    def again(self, now: float) -> Looks:
        """After another look."""
        since = now - self.last
        if since > LONGEST_INTERVAL_SECONDS:
            return Looks(now)
        return Looks(now, max(since, self.interval / 2))

    def rest_at(self, every: float) -> float:
        """When work that is done `every` so many seconds may rest."""
        return self.last + INTERVALS * max(every, self.interval)
