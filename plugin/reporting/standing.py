"""How one feature stands: with the API server, with other writers, and with mistakes of ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

from msgspec import Struct

from plugin.core.cluster import Collection, NodeMetadata
from plugin.errors import ClusterError, ClusterRefused

log = logging.getLogger(__name__)

#: Before what a mistake of ours has ended is run again.
AGAIN_SECONDS = 60.0
#: For the files that are read or written beside it.
FILES_SECONDS = 30.0


def is_final(error: ClusterError) -> bool:
    """Whether the API server has refused just this, and would again."""
    passing = {HTTPStatus.UNAUTHORIZED, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
    return (
        isinstance(error, ClusterRefused)
        and error.code < HTTPStatus.INTERNAL_SERVER_ERROR
        and error.code not in passing
    )


def node_of(known: Collection[NodeMetadata]) -> NodeMetadata | None:
    """The own Node as it was last seen; a watch of one holds no other."""
    return next(iter(known.items.values()), None)


class Attempt(Struct):
    """``failed``: go round again, for the client paces requests. ``refused``: for good."""

    failed: bool = True
    refused: bool = False


class _Problem(NamedTuple):
    text: str
    until: float  # infinity: until an attempt at the same part succeeds


class Standing:
    """``problems`` are sentences about what does not work: a request that is refused for good or
    again and again, ``note``, and a mistake of ours. Outages are reported for all features
    together.
    """

    def __init__(self, what: str, lasts: float = math.inf) -> None:
        """`lasts`: seconds for which a final refusal counts, where no other request need follow it;
        any success ends it then.
        """
        self._what, self._lasts = what, lasts
        self._problems: dict[str, _Problem] = {}
        self._mistake = _Problem("", 0.0)
        #: What else is to be told, while it is so.
        self.note = ""

    @property
    def problems(self) -> tuple[str, ...]:
        now = _now()
        found = (*self._problems.values(), _Problem(self.note, math.inf), self._mistake)
        return tuple(text for text, until in found if text and now < until)

    def clear(self) -> None:
        """Nothing is to be asked for, so that nothing is refused."""
        self._problems.clear()

    @contextlib.contextmanager
    def attempt(self, part: str = "") -> Iterator[Attempt]:
        """One attempt at a part of the feature; an error of the cluster's ends here."""
        attempt = Attempt()
        try:
            yield attempt
        except ClusterError as error:
            attempt.refused = is_final(error)
            until = _now() + self._lasts if attempt.refused else math.inf
            if attempt.refused or error.persists:
                self._problems[part] = _Problem(f"{self._what}: {error}", until)
        else:
            attempt.failed = False
            self._problems = {
                key: problem
                for key, problem in self._problems.items()
                if key != part and problem.until == math.inf
            }

    async def keep(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it to its end. A mistake of ours stops it for a while, and nothing else with it: what
        stands in the cluster is not worth the devices.
        """
        while True:
            # In a task of its own: a group of tasks that failed may leave its own marked as
            # cancelled, which only an end of ours should do.
            running = asyncio.create_task(run(), name=self._what)
            try:
                await running
            except Exception as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError from error
                self.mistaken(error)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    def mistaken(self, error: Exception) -> None:
        """Tell of a mistake of ours."""
        text = f"{self._what}: {error!r}, a mistake of the plugin's; its log has the traceback"
        if text != self._mistake.text:
            log.error(
                "a mistake of the plugin's keeps it from the cluster",
                extra={"feature": self._what},
                exc_info=error,
            )
        self._mistake = _Problem(text, _now() + 2 * AGAIN_SECONDS)


def _now() -> float:
    return asyncio.get_running_loop().time()
