"""What can go wrong with the API server, and when."""

from __future__ import annotations

import enum

from msgspec import Struct, field

from plugin.sim.apiserver.rbac import Attributes
from plugin.sim.apiserver.refusal import Refused


class How(enum.Enum):
    """What happens to the connection instead of an answer."""

    CLOSED = "closed"  # without an answer
    BROKEN = "broken"  # in the middle of the answer
    SILENT = "silent"  # open, without an answer
    GARBAGE = "garbage"  # 200 with a body that is no JSON
    NOT_HTTP = "not-http"
    ENDLESS = "endless"  # a body without end or line break


class WatchFault(enum.Enum):
    """What happens to an open watch."""

    END = "end"
    CUT_IN_LINE = "cut-in-line"
    END_IN_LINE = "end-in-line"  # an orderly end, but for the line
    EXPIRED = "expired"  # an ERROR event of 410, then the end
    ERROR = "error"  # an ERROR event of 500, then the end
    GARBAGE = "garbage"  # a line that is no JSON
    LONG_LINE = "long-line"  # without end
    SILENT = "silent"  # half-open: nothing any more, no end either


class Fault(Struct):
    """Applies to the next ``times`` requests of this verb, resource and namespace; empty means any.
    Either ``refusal`` or ``how`` replaces the answer; ``delay`` seconds pass first.
    """

    verb: str = ""
    resource: str = ""
    times: float = float("inf")
    refusal: Refused | None = None
    how: How | None = None
    delay: float = 0.0
    namespace: str = ""

    def concerns(self, asked: Attributes) -> bool:
        return (
            self.times > 0
            and self.verb in {"", asked.verb}
            and self.resource in {"", asked.resource}
            and self.namespace in {"", asked.namespace}
        )


class Faults(Struct):
    """Planned faults; the first that concerns a request applies."""

    planned: list[Fault] = field(default_factory=list)

    def plan(self, fault: Fault) -> Fault:
        self.planned.append(fault)
        return fault

    def clear(self) -> None:
        self.planned.clear()

    def take(self, asked: Attributes) -> Fault | None:
        for fault in self.planned:
            if fault.concerns(asked):
                fault.times -= 1
                return fault
        return None
