"""Requests with credentials, pauses, counts and the log lines of an outage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlencode

from msgspec import Struct, field

import plugin
from plugin.cluster.failures import json_object, translated
from plugin.cluster.http import Answer, Request, Transport
from plugin.cluster.pacing import Pacing
from plugin.cluster.status import refusal
from plugin.errors import ClusterError, ClusterRefused, ClusterUnreachable
from plugin.loops.pulse import Pulse

T = TypeVar("T")

log = logging.getLogger(__name__)

#: The first failure of a restarting API server is not worth two lines.
_LOGGED_FROM = 2
#: Calls whose refusal is remembered as logged.
_MOST_REFUSED = 64


class Call(Struct, frozen=True):
    """``verb`` is RBAC's, ``resource`` as in a ClusterRole, ``path`` without the query."""

    verb: str
    resource: str
    path: str
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    #: Tells which errors are answers: returned, not raised.
    expected: Callable[[ClusterRefused], bool] = lambda _: False

    @property
    def key(self) -> str:
        """What is paced together."""
        return f"{self.verb} {self.path}"

    def request(self, token: str | None) -> Request:
        """As HTTP."""
        method = {"create": "POST", "patch": "PATCH"}.get(self.verb, "GET")
        headers = {
            "Accept": self.accept,
            "User-Agent": f"mig-device-plugin/{plugin.__version__}",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body = b""
        if self.body is not None:
            body = json.dumps(self.body, separators=(",", ":")).encode()
            headers["Content-Type"] = self.content_type
        return Request(
            method,
            f"{self.path}?{urlencode(self.query)}" if self.query else self.path,
            headers,
            body,
        )


class Traffic(Struct, frozen=True):
    """Totals since the start, for metrics.

    ``requests`` counts by (verb, resource, code); the code is HTTP's status, or a
    :class:`plugin.cluster.failures.Cause` without an answer. ``away_since`` is the wall clock's
    second at which the present outage began, ``away_because`` what its last attempt came to.
    """

    requests: Mapping[tuple[str, str, str], int]
    away_since: float | None = None
    away_because: str = ""


class Session:
    """Every request to the API server goes through here. Used from the event loop only."""

    def __init__(
        self,
        transport: Transport,
        pacing: Pacing | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._pacing = pacing or Pacing()
        self._wall_clock = wall_clock
        self._requests: dict[tuple[str, str, str], int] = {}
        self._back = Pulse()
        #: On the wall clock, for people, and on the event loop's, which nobody sets.
        self._away_since: float | None = None
        self._away_from = 0.0
        self._away_because = ""
        self._refused: dict[str, str] = {}
        self._reported = False

    @property
    def traffic(self) -> Traffic:
        return Traffic(MappingProxyType(dict(self._requests)), self._away_since, self._away_because)

    async def may_ask(self) -> None:
        """Wait for the end of an outage's pause."""
        await self._wait(self._pacing.wait)

    async def send(self, call: Call, read: Callable[[Answer], T]) -> T:
        """One attempt, as soon as it may be made, and what `read` makes of its answer; an answer
        that it cannot read is a failure like any other. Raises :class:`ClusterError`.
        """
        async with self._attempt(call):
            answer = await self._transport.exchange(self._request(call))
            if answer.status == HTTPStatus.UNAUTHORIZED:
                self._count(call, str(answer.status))
                answer = await self._transport.exchange(self._request(call, again=True))
            self._check(call, answer)
            with translated(f"{call.verb} {call.resource}"):
                return read(answer)

    @contextlib.asynccontextmanager
    async def lines(self, call: Call, idle_seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch; only its beginning counts as an attempt."""
        async with contextlib.AsyncExitStack() as stack:
            async with self._attempt(call):
                answer, lines = await stack.enter_async_context(
                    self._transport.stream(self._request(call), idle_seconds)
                )
                if answer.status == HTTPStatus.UNAUTHORIZED:
                    self._count(call, str(answer.status))
                    answer, lines = await stack.enter_async_context(
                        self._transport.stream(self._request(call, again=True), idle_seconds)
                    )
                self._check(call, answer)
            yield lines

    def broken(self, call: Call, cause: str) -> None:
        """Count a stream that broke off after it had begun."""
        self._count(call, cause)

    def close(self) -> None:
        self._transport.close()

    def _request(self, call: Call, *, again: bool = False) -> Request:
        return call.request(self._transport.credentials.token(again=again))

    def _check(self, call: Call, answer: Answer) -> None:
        self._count(call, str(answer.status))
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return
        error = self.refusal(call, answer)
        if not call.expected(error):
            raise error

    def refusal(self, call: Call, answer: Answer) -> ClusterRefused:
        """The error of an answer of 300 or above."""
        return refusal(
            f"{call.verb} {call.resource} ({call.path})",
            answer.status,
            answer.headers,
            answer.body,
            self._wall_clock(),
        )

    @contextlib.asynccontextmanager
    async def _attempt(self, call: Call) -> AsyncIterator[None]:
        await self._wait(lambda now: self._pacing.wait_for(call.key, now))
        self._pacing.begin(_now())
        try:
            yield
        except ClusterError as error:
            if isinstance(error, ClusterUnreachable):
                self._count(call, _code(error))
            self._judge(call, error)
            raise
        self._pacing.succeeded(call.key)
        self._refused.pop(call.key, None)
        self._answered()

    def _judge(self, call: Call, error: ClusterError) -> None:
        if isinstance(error, ClusterRefused) and not concerns_all(error):
            self._pacing.refused(call.key, _now(), error.code, error.retry_after)
            error.persists = self._pacing.persists(call.key)
            self._answered()
            self._report_refusal(call, error)
            return
        pause, general = None, True
        if isinstance(error, ClusterRefused):
            pause, general = error.retry_after, error.code != HTTPStatus.INTERNAL_SERVER_ERROR
        self._pacing.away(call.key, _now(), pause, general=general)
        error.persists = self._pacing.persists(call.key)
        if error.persists:
            self._report_refusal(call, error)
            return
        if self._away_since is None:
            self._away_since, self._away_from = self._wall_clock(), _now()
        self._away_because = str(error)
        if self._pacing.failures >= _LOGGED_FROM and not self._reported:
            log.warning(
                "API server does not answer", extra={"reason": error.what, "fix": error.fix or None}
            )
            self._reported = True

    def _answered(self) -> None:
        self._back.fire()
        if self._away_since is None:
            return
        seconds = round(_now() - self._away_from, 1)
        self._away_since, self._away_because = None, ""
        if self._reported:
            self._reported = False
            log.info("API server answers again", extra={"seconds": seconds})

    def _report_refusal(self, call: Call, error: ClusterError) -> None:
        """Once until the call succeeds or is refused otherwise. Conflicts and expired versions are
        everyday, unless they do not end.
        """
        code = error.code if isinstance(error, ClusterRefused) else None
        if code in {HTTPStatus.CONFLICT, HTTPStatus.GONE} and not error.persists:
            return
        why = _code(error)
        if self._refused.get(call.key) != why:
            if len(self._refused) >= _MOST_REFUSED:
                self._refused.clear()
            self._refused[call.key] = why
            log.warning(
                "API server refused a request",
                extra={"reason": error.what, "code": code, "fix": error.fix or None},
            )

    def _count(self, call: Call, code: str) -> None:
        key = call.verb, call.resource, code
        self._requests[key] = self._requests.get(key, 0) + 1

    async def _wait(self, seconds: Callable[[float], float]) -> None:
        """The end of an outage may shorten the pause."""
        while (pause := seconds(_now())) > 0:
            back = self._back.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await back


def _code(error: ClusterError) -> str:
    """HTTP's status, or the cause without an answer."""
    if isinstance(error, ClusterRefused):
        return str(error.code)
    return error.cause if isinstance(error, ClusterUnreachable) else ""


def concerns_all(error: ClusterRefused) -> bool:
    """Whether other requests would fail likewise: overload, and errors of the server itself."""
    return (
        error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def json_of(answer: Answer) -> Mapping[str, Any]:
    """The JSON object of an answer, for :meth:`Session.send`."""
    return json_object(answer.body)


def _now() -> float:
    return asyncio.get_running_loop().time()
