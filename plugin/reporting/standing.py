"""How one feature stands with the API server."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from http import HTTPStatus

from plugin.core.cluster import Collection, NodeMetadata
from plugin.errors import ClusterError, ClusterRefused


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


class Standing:
    """``problem`` is a sentence while the feature's requests are refused; outages are reported for
    all features together.
    """

    def __init__(self, what: str, lasts: float = math.inf) -> None:
        """`lasts`: seconds for which a refusal counts, where no other request need follow it."""
        self._what, self._lasts = what, lasts
        self._problem, self._until = "", 0.0
        self.failed = False  # the last attempt: go round again, for the client paces requests
        self.refused = False  # for good

    @property
    def problem(self) -> str:
        return self._problem if self._problem and _now() < self._until else ""

    def clear(self) -> None:
        """Nothing is to be asked for, so that nothing is refused."""
        self._problem = ""

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One attempt; an error of the cluster's ends here."""
        self.failed, self.refused = True, False
        try:
            yield
        except ClusterError as error:
            self.refused = is_final(error)
            if self.refused:
                self._problem, self._until = f"{self._what}: {error}", _now() + self._lasts
        else:
            self.failed = False
            self.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()
