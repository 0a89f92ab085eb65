"""The HTTP server: metrics, probes, the status page and its data."""

from __future__ import annotations

import socket
from collections.abc import Callable

from plugin.core.settings import Settings
from plugin.core.view import View
from plugin.web.http.bearer import Bearers
from plugin.web.http.server import HttpServer, Tls
from plugin.web.routes import Site


async def serve(
    settings: Settings, view: Callable[[], View], looked: Callable[[str], None]
) -> None:
    """Serve until cancelled. Retries if the address is in use; nothing else depends on HTTP.

    `looked` is as for :class:`Site`.
    """
    tls = Tls(settings.http_tls_cert, settings.http_tls_key) if settings.http_tls_cert else None
    own = socket.gethostname()
    site = Site(
        view,
        looked=looked,
        hostname=settings.node_name or own,
        hosts=(own, *settings.http_hosts),
        dcgm_names=settings.dcgm_names,
        bearers=Bearers(settings.http_token_file) if settings.http_token_file else None,
    )
    await HttpServer(settings.http_address, site, tls=tls).run()
