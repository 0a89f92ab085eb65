"""The routes; each response is rendered from one view at the time of the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from msgspec import Struct

from plugin.core.view import View
from plugin.web.edition import Edition
from plugin.web.health import Verdict, health, readiness
from plugin.web.hosts import Hosts
from plugin.web.http.bearer import Bearers
from plugin.web.http.message import Request, Response, utf8
from plugin.web.state import document, still

_JSON = "application/json"
_OPENMETRICS = "application/openmetrics-text"
_METHODS = ("GET", "HEAD")
_NOT_THIS_HOST = b"no host of this name is served here; --http-hosts adds names\n"
#: The page contains ages, so it is rendered again after this time.
_PAGE_SECONDS = 30


class RenderMetrics(Protocol):
    """See :func:`plugin.web.metrics.scrape.render`: the body and its content type."""

    def __call__(
        self, view: View, *, openmetrics: bool, dcgm_names: bool, hostname: str
    ) -> tuple[bytes, str]: ...


class Page(Struct, frozen=True):
    """``render`` takes the document and the current time; ``headers`` go with the response."""

    render: Callable[[Mapping[str, Any], float], str]
    headers: Mapping[str, str]


def load_page() -> Page:
    """Takes 150 ms, to import the template language and compile the templates."""
    from plugin.web.page.render import HEADERS, render  # noqa: PLC0415

    return Page(render, HEADERS)


def load_metrics() -> RenderMetrics:
    """Takes 30 ms and 3 MiB, for prometheus_client."""
    from plugin.web.metrics.scrape import render  # noqa: PLC0415 — not every daemon is scraped

    return render


class Site:
    """Answers requests. Probes come first; all other routes take at most half of the event loop's
    time.
    """

    def __init__(
        self,
        view: Callable[[], View],
        *,
        looked: Callable[[str], None] = lambda _: None,
        hostname: str = "",
        hosts: Iterable[str] = (),
        dcgm_names: bool = False,
        bearers: Bearers | None = None,
        render_metrics: RenderMetrics | None = None,
        load_page: Callable[[], Page] = load_page,
    ) -> None:
        """`looked` is called with the path when somebody is shown the use of devices. `hosts` are
        accepted besides `hostname`, see :class:`Hosts`. With `bearers`, everything but the probes
        needs one of their tokens.
        """
        self._view = view
        self._looked = looked
        self._hostname = hostname
        self._hosts = Hosts((hostname, *hosts))
        self._dcgm_names = dcgm_names
        self._bearers = bearers
        self._render_metrics = render_metrics
        self._load_page = load_page
        self._loaded: Page | None = None
        self._state_edition, self._page_edition = Edition(), Edition()
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
        if not self._hosts.serves(request.headers.get("host")):
            return Response(421, _NOT_THIS_HOST)
        probe, page = self._probes.get(request.path), self._pages.get(request.path)
        refusal = self._bearers.refusal(request) if self._bearers and probe is None else None
        if refusal is not None:
            return refusal
        if probe is None and page is None:
            paths = ", ".join((*self._pages, *self._probes))
            return Response(404, f"there is nothing here; there are {paths}\n".encode())
        if request.method not in _METHODS:
            return Response(405, b"this can only be read\n", headers={"Allow": ", ".join(_METHODS)})
        if probe is not None:
            return probe()
        if page == self._page and self._loaded is None:
            # In a thread, so that the loop keeps answering kubelet.
            self._loaded = await asyncio.to_thread(self._load_page)  # noqa: TID251 — an import
        if page == self._metrics and self._render_metrics is None:
            self._render_metrics = await asyncio.to_thread(load_metrics)  # noqa: TID251 — as above
        return await self._in_turn(page, request) if page is not None else Response(404)

    async def _in_turn(self, page: Callable[[Request], Response], request: Request) -> Response:
        """Pause after each response for as long as it took, so that busy clients cannot fill the
        loop.
        """
        now = asyncio.get_running_loop().time
        async with self._turn:
            await asyncio.sleep(self._rested - now())
            started = now()
            response = page(request)
            self._looked(request.path)
            self._rested = now() + (now() - started)
            return response

    # ---- probes

    def _healthz(self) -> Response:
        return _probe(health(self._view()))

    def _readyz(self) -> Response:
        return _probe(readiness(self._view()))

    # ---- pages

    def _metrics(self, request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        render = self._render_metrics or load_metrics()
        body, content_type = render(
            self._view(),
            openmetrics=openmetrics,
            dcgm_names=self._dcgm_names,
            hostname=self._hostname,
        )
        return Response(200, body, content_type, {"Cache-Control": "no-store", "Vary": "Accept"})

    def _state(self, request: Request) -> Response:
        view = self._view()

        def body() -> bytes:
            return _encoded(document(view, self._hostname))

        return _tagged(request, self._state_edition.tag(still(view)), body, _JSON)

    def _page(self, request: Request) -> Response:
        page, view = self._loaded or self._load_page(), self._view()

        def body() -> bytes:
            return utf8(page.render(document(view, self._hostname), view.now))

        tag = self._page_edition.tag((still(view), view.now // _PAGE_SECONDS))
        return _tagged(request, tag, body, "text/html; charset=utf-8", page.headers)


def wants_openmetrics(accept: str) -> bool:
    """Whether an ``Accept`` header prefers OpenMetrics to plain text, or equally; without one,
    plain text.
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
    told = {"status": "ok" if verdict.good else "failing", "reasons": verdict.reasons}
    body = _encoded({**told, "notes": verdict.notes} if verdict.notes else told)
    return Response(200 if verdict.good else 503, body, _JSON, {"Cache-Control": "no-store"})


def _encoded(value: object) -> bytes:
    return utf8(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def _tagged(
    request: Request,
    tag: str,
    body: Callable[[], bytes],
    content_type: str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """The body, or 304 without rendering it if the client's copy is current."""
    headers = {**headers, "ETag": tag, "Cache-Control": "no-cache"}
    have = {
        item.strip().removeprefix("W/")
        for item in request.headers.get("if-none-match", "").split(",")
    }
    if tag in have or "*" in have:
        return Response(304, b"", content_type, headers)
    return Response(200, body(), content_type, headers)
