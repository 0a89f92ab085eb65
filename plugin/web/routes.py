"""What is served where: each answer is made of one view, at the moment it is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Protocol

from plugin.core.view import View
from plugin.web.health import HUNG_SECONDS, Verdict, health, readiness
from plugin.web.http.message import Request, Response
from plugin.web.metrics.scrape import render
from plugin.web.page import render as page
from plugin.web.state import document

_JSON = "application/json"
_OPENMETRICS = "application/openmetrics-text"
_METHODS = ("GET", "HEAD")
#: The page says how long ago things were; a page that is older than this is made again.
_PAGE_SECONDS = 30


class RenderMetrics(Protocol):
    """``plugin.web.metrics.scrape.render``: the body and its content type."""

    def __call__(
        self, view: View, *, openmetrics: bool, dcgm_names: bool, hostname: str
    ) -> tuple[bytes, str]: ...


class Site:
    """Answers requests. Probes are answered at once; all else together takes at most half of the
    event loop's time.
    """

    def __init__(
        self,
        view: Callable[[], View],
        *,
        hostname: str = "",
        dcgm_names: bool = False,
        hung_seconds: float = HUNG_SECONDS,
        render_metrics: RenderMetrics | None = None,
    ) -> None:
        """`render_metrics` stands in for :func:`plugin.web.metrics.scrape.render`."""
        self._view = view
        self._hostname = hostname
        self._dcgm_names = dcgm_names
        self._hung_seconds = hung_seconds
        self._render_metrics = render_metrics or render
        self._turn = asyncio.Lock()
        self._rested = 0.0
        self._probes: Mapping[str, Callable[[], Response]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        self._pages: Mapping[str, Callable[[Request], Response]] = {
            "/": self._page,
            "/api/v1/state": self._state,
            "/metrics": self._metrics,
        }

    async def __call__(self, request: Request) -> Response:
        probe, made = self._probes.get(request.path), self._pages.get(request.path)
        if probe is None and made is None:
            there = ", ".join((*self._pages, *self._probes))
            return Response(404, f"there is nothing here; there are {there}\n".encode())
        if request.method not in _METHODS:
            return Response(405, b"this can only be read\n", headers={"Allow": ", ".join(_METHODS)})
        if probe is not None:
            return probe()
        return await self._in_turn(made, request) if made is not None else Response(404)

    async def _in_turn(self, made: Callable[[Request], Response], request: Request) -> Response:
        """After each answer the loop is left alone for as long as that took: clients that ask a lot
        wait.
        """
        now = asyncio.get_running_loop().time
        async with self._turn:
            await asyncio.sleep(self._rested - now())
            started = now()
            response = made(request)
            self._rested = now() + (now() - started)
            return response

    # ---- probes

    def _healthz(self) -> Response:
        return _probe(health(self._view(), self._hung_seconds))

    def _readyz(self) -> Response:
        return _probe(readiness(self._view()))

    # ---- pages

    def _metrics(self, request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        body, content_type = self._render_metrics(
            self._view(),
            openmetrics=openmetrics,
            dcgm_names=self._dcgm_names,
            hostname=self._hostname,
        )
        return Response(200, body, content_type, {"Cache-Control": "no-store", "Vary": "Accept"})

    def _state(self, request: Request) -> Response:
        body = _encoded(document(self._view(), self._hostname))
        return _tagged(request, body, _JSON, _tag(body))

    def _page(self, request: Request) -> Response:
        view = self._view()
        told = document(view, self._hostname)
        tag = _tag(_encoded(told) + str(view.now // _PAGE_SECONDS).encode())
        return _tagged(
            request,
            page.render(told, view.now).encode(),
            "text/html; charset=utf-8",
            tag,
            page.HEADERS,
        )


def wants_openmetrics(accept: str) -> bool:
    """Whether an ``Accept`` header likes OpenMetrics at least as much as plain text; nothing said
    means text.
    """
    weights: dict[str, float] = {}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[kind] = max(weights.get(kind, 0.0), float(weight))
        except ValueError:
            continue
    wanted = weights.get(_OPENMETRICS, 0.0)
    return wanted > 0 and wanted >= weights.get("text/plain", 0.0)


def _probe(verdict: Verdict) -> Response:
    body = _encoded(
        {"status": "ok" if verdict.good else "failing", "reasons": list(verdict.reasons)}
    )
    return Response(200 if verdict.good else 503, body, _JSON, {"Cache-Control": "no-store"})


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _tag(body: bytes) -> str:
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def _tagged(
    request: Request,
    body: bytes,
    content_type: str,
    tag: str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """The body, or nothing for a client that has it."""
    headers = {**headers, "ETag": tag, "Cache-Control": "no-cache"}
    have = {
        item.strip().removeprefix("W/")
        for item in request.headers.get("if-none-match", "").split(",")
    }
    return Response(304 if tag in have or "*" in have else 200, body, content_type, headers)
