"""The HTTP server against clients of all kinds, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.core.view import View
from plugin.errors import ConfigError
from plugin.web.http.server import HttpServer, Limits, Tls, parse_address
from plugin.web.http.tls import Certificate
from plugin.web.routes import Site
from tests.web.scenes import balanced

from .conftest import SECONDS, becomes

PATHS = ("/", "/api/v1/state", "/metrics", "/healthz", "/readyz")
GET = b"GET %s HTTP/1.1\r\nHost: node\r\n\r\n"
LAST = b"GET %s HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl to make certificates"
)


class Subject:
    """A running server and what it is asked about."""

    def __init__(
        self, address: str = "127.0.0.1:0", *, limits: Limits | None = None, tls: Tls | None = None
    ) -> None:
        self.view: Callable[[], View] = lambda: SEEN
        self.metrics = b"up 1\n"
        site = Site(self._see, hostname="node-7", render_metrics=self._render)
        self.server = HttpServer(address, site, tls=tls, limits=limits)

    def _see(self) -> View:
        return self.view()

    def _render(
        self, view: View, *, openmetrics: bool, dcgm_names: bool, hostname: str
    ) -> tuple[bytes, str]:
        assert view is SEEN
        assert (dcgm_names, hostname) == (False, "node-7")
        return self.metrics, "application/openmetrics-text" if openmetrics else "text/plain"

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        port = self.server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=2**25)
        return Client(reader, writer)

    async def ask(self, request: bytes) -> Answer:
        """The answer on a connection of its own, which the server has to close."""
        client = await self.connect()
        answer = await client.ask(request)
        assert await client.rest() == b""
        client.close()
        return answer


SEEN = balanced()


class Answer:
    def __init__(self, head: bytes, body: bytes) -> None:
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in lines if line)
        }
        self.body = body


class Client:
    """Speaks bytes. Waits are limited; the server has no part in that."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self, *, body: bool = True) -> Answer:
        async with asyncio.timeout(SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            told = Answer(head, b"")
            if body and "content-length" in told.headers:
                told.body = await self._reader.readexactly(int(told.headers["content-length"]))
        return told

    async def ask(self, request: bytes) -> Answer:
        self.send(request)
        return await self.answer(body=not request.startswith(b"HEAD"))

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, in whatever way."""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read()
        return b""

    def close(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(subject: Subject) -> AsyncIterator[Subject]:
    """The server in its task, which must not fail."""
    running = asyncio.create_task(subject.server.run())
    try:
        async with asyncio.timeout(SECONDS):
            await subject.server.listening.wait()
        yield subject
        assert not running.done()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


# ---- requests


@pytest.mark.asyncio
@pytest.mark.parametrize("path", PATHS)
async def test_every_route_answers_get_and_head(path: str) -> None:
    async with serving(Subject()) as subject:
        got = await subject.ask(LAST % path.encode())
        head = await subject.ask(LAST.replace(b"GET", b"HEAD") % path.encode())
    assert (got.status, head.status) == (200, 200)
    assert (
        len(got.body)
        == int(got.headers["content-length"])
        == int(head.headers["content-length"])
        > 0
    )
    assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.asyncio
async def test_answers_what_the_probes_and_the_state_say() -> None:
    async with serving(Subject()) as subject:
        assert json.loads((await subject.ask(LAST % b"/healthz")).body) == {
            "status": "ok",
            "reasons": [],
        }
        assert json.loads((await subject.ask(LAST % b"/readyz?verbose")).body)["status"] == "ok"
        assert (
            json.loads((await subject.ask(LAST % b"http://node:9400/api/v1/state")).body)[
                "hostname"
            ]
            == "node-7"
        )
        subject.view = lambda: replace(SEEN, driver_busy=99.0, resources=())
        ill, unready = await subject.ask(LAST % b"/healthz"), await subject.ask(LAST % b"/readyz")
    assert (ill.status, unready.status) == (503, 503)
    assert json.loads(ill.body)["reasons"] == ["the driver has not come back from a call for 99 s"]
    assert len(json.loads(unready.body)["reasons"]) == 3


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("text/html, */*", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
            "application/openmetrics-text",
        ),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.5", "text/plain"),
        ("application/openmetrics-text;q=0", "text/plain"),
        ("application/openmetrics-text;q=x", "text/plain"),
    ],
)
async def test_metrics_come_as_the_scraper_likes_them(accept: str, kind: str) -> None:
    async with serving(Subject()) as subject:
        answer = await subject.ask(
            LAST.replace(b"Host", b"Accept: " + accept.encode() + b"\r\nHost") % b"/metrics"
        )
    assert answer.headers["content-type"] == kind
    assert answer.headers["vary"] == "Accept"


@pytest.mark.asyncio
async def test_the_same_state_is_sent_once() -> None:
    async with serving(Subject()) as subject:
        for path in (b"/", b"/api/v1/state"):
            subject.view = lambda: SEEN
            tag = (await subject.ask(LAST % path)).headers["etag"]
            known = LAST.replace(b"Host", b"If-None-Match: " + tag.encode() + b"\r\nHost")
            subject.view = lambda: replace(SEEN, now=SEEN.now + 1)
            same = await subject.ask(known % path)
            assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
            subject.view = lambda: replace(SEEN, holders={})
            assert (await subject.ask(known % path)).status == 200


@pytest.mark.asyncio
async def test_unknown_paths_and_wrong_methods() -> None:
    async with serving(Subject()) as subject:
        for path in (
            b"/metric",
            b"/metrics/",
            b"//",
            b"/../etc/passwd",
            b"http://[",
            b"*",
            b"/%2e",
        ):
            assert (await subject.ask(LAST % path)).status == 404
        for method in (b"POST", b"DELETE", b"OPTIONS", b"BREW"):
            answer = await subject.ask(LAST.replace(b"GET", method) % b"/metrics")
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.asyncio
async def test_a_view_that_fails_is_one_failed_request(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> View:
        raise ZeroDivisionError

    async with serving(Subject()) as subject:
        subject.view = broken
        client = await subject.connect()
        assert (await client.ask(GET % b"/healthz")).status == 500
        subject.view = lambda: SEEN
        assert (await client.ask(GET % b"/healthz")).status == 200
        client.close()
    (error,) = errors(caplog)
    assert error.exc_info is not None


# ---- connections


@pytest.mark.asyncio
async def test_a_connection_serves_many_requests_also_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Subject()) as subject:
        client = await subject.connect()
        assert (await client.ask(GET % b"/healthz")).status == 200
        client.send(GET % b"/healthz" + GET % b"/nothing" + LAST % b"/readyz")
        assert [(await client.answer()).status for _ in range(3)] == [200, 404, 200]
        assert await client.rest() == b""
        client.close()
    requests = [vars(record) for record in caplog.records if record.getMessage() == "request"]
    assert [request["status"] for request in requests] == [200, 200, 404, 200]
    assert requests[2]["path"] == "/nothing"


@pytest.mark.asyncio
async def test_http_1_0_is_answered_and_closed() -> None:
    async with serving(Subject()) as subject:
        assert (await subject.ask(b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000, 431),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (
            (
                b"POST /metrics HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                b"Content-Length: 5\r\n\r\n"
            ),
            413,
        ),
        (
            b"POST /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + 20 * (b"400\r\n" + b"x" * 1024 + b"\r\n"),
            413,
        ),
    ],
)
async def test_what_is_no_good_request_is_refused(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Subject()) as subject:
        answer = await subject.ask(request_)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert (await subject.ask(LAST % b"/healthz")).status == 200
    assert errors(caplog) == []


@pytest.mark.asyncio
async def test_a_small_body_is_read_and_ignored() -> None:
    async with serving(Subject()) as subject:
        client = await subject.connect()
        client.send(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + GET % b"/readyz"
        )
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        client.close()


@pytest.mark.asyncio
async def test_a_request_that_takes_too_long_is_ended() -> None:
    async with serving(Subject(limits=Limits(head_seconds=0.05))) as subject:
        assert (await subject.ask(b"GET /healthz HTTP/1.1\r\nX-Slow: ")).status == 408
        slow_body = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"
        assert (await subject.ask(slow_body)).status == 408


@pytest.mark.asyncio
async def test_patience_with_an_idle_connection_ends_with_its_next_request() -> None:
    async with serving(Subject(limits=Limits(head_seconds=0.05, idle_seconds=600.0))) as subject:
        client = await subject.connect()
        assert (await client.ask(GET % b"/healthz")).status == 200
        assert (await client.ask(b"GET /healthz HTTP/1.1\r\nX-Slow: ")).status == 408
        client.close()


@pytest.mark.asyncio
async def test_idle_connections_end_without_a_word() -> None:
    async with serving(Subject(limits=Limits(head_seconds=0.05, idle_seconds=0.05))) as subject:
        silent, served = await subject.connect(), await subject.connect()
        assert (await served.ask(GET % b"/healthz")).status == 200
        assert await silent.rest() == b""
        assert await served.rest() == b""
        silent.close()
        served.close()
        await becomes(lambda: subject.server.connections == 0)


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Subject(limits=Limits(write_seconds=0.05))) as subject:
        subject.metrics = b"x" * 2**26
        client = socket.create_connection(("127.0.0.1", subject.server.port))
        client.sendall(GET % b"/metrics")
        await becomes(lambda: subject.server.connections == 1)
        await becomes(lambda: subject.server.connections == 0)
        client.close()
        assert (await subject.ask(LAST % b"/healthz")).status == 200
    assert errors(caplog) == []


@pytest.mark.asyncio
async def test_when_it_is_full_the_longest_idle_connection_makes_room() -> None:
    async with serving(Subject(limits=Limits(connections=3))) as subject:
        waiting = await subject.connect()  # older, but it has not had its answer yet
        waiting.send(b"GET /healthz HTTP/1.1\r\n")
        first, second = await subject.connect(), await subject.connect()
        for client in (first, second):
            assert (await client.ask(GET % b"/healthz")).status == 200
        assert (await subject.ask(LAST % b"/healthz")).status == 200
        assert await first.rest() == b""
        assert (await second.ask(GET % b"/healthz")).status == 200
        assert (await waiting.ask(b"Host: a\r\n\r\n")).status == 200
        for client in (waiting, first, second):
            client.close()


@pytest.mark.asyncio
async def test_a_crowd_does_not_keep_a_probe_out(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Subject(limits=Limits(connections=8))) as subject:
        crowd = [await subject.connect() for _ in range(60)]
        for number, client in enumerate(crowd):
            client.send((b"", b"GET /", GET % b"/metrics", b"\r\n")[number % 4])
        assert (await subject.ask(LAST % b"/healthz")).status == 200
        assert subject.server.connections <= 8
        for client in crowd:
            client.close()
        await becomes(lambda: subject.server.connections == 0)
    assert errors(caplog) == []


@pytest.mark.asyncio
async def test_the_end_ends_every_connection() -> None:
    async with serving(Subject()) as subject:
        idle = await subject.connect()
        await idle.ask(GET % b"/healthz")
        begun = await subject.connect()
        begun.send(b"GET /")
    assert await idle.rest() == await begun.rest() == b""
    assert subject.server.connections == 0
    idle.close()
    begun.close()


# ---- address


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (":9400", (None, 9400)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9400", ("::1", 9400)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_addresses(text: str, where: tuple[str | None, int]) -> None:
    assert parse_address(text) == where


@pytest.mark.parametrize("text", ["9400", ":", "::1:9400", "[::1]", "a:b", ":65536", ":-1"])
def test_bad_addresses_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write :9400, 127\.0\.0\.1:9400 or \[::1\]:9400"):
        parse_address(text)


@pytest.mark.asyncio
async def test_without_a_host_it_listens_everywhere() -> None:
    async with serving(Subject(":0")) as subject:
        assert (await subject.ask(LAST % b"/healthz")).status == 200
        if socket.has_ipv6:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("::1", subject.server.port)) as client,
            ):
                assert client.getpeername()[1] == subject.server.port


@pytest.mark.asyncio
async def test_without_an_address_nothing_is_served() -> None:
    subject = Subject("")
    await subject.server.run()
    assert subject.server.port is None


@pytest.mark.asyncio
async def test_a_taken_address_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        subject = Subject(f"127.0.0.1:{port}")
        running = asyncio.create_task(subject.server.run())
        await becomes(lambda: bool(errors(caplog)))
        (error, *_) = errors(caplog)
        assert error.getMessage() == "HTTP is not served, trying again"
        assert "in use" in vars(error)["reason"]
        assert not subject.server.listening.is_set()
    async with asyncio.timeout(SECONDS):
        await subject.server.listening.wait()
    assert (await subject.ask(LAST % b"/healthz")).status == 200
    running.cancel()
    await asyncio.wait({running})


# ---- TLS


def make_certificate(folder: Path, name: str) -> None:
    """A new pair in `folder`, as ``tls.crt`` and ``tls.key``."""
    files = ["-keyout", str(folder / "new.key"), "-out", str(folder / "new.crt")]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    whose = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, *files, *whose], check=True, capture_output=True
    )
    for kind in ("crt", "key"):
        (folder / f"new.{kind}").replace(folder / f"tls.{kind}")


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "tls.crt"))


async def named(subject: Subject, context: ssl.SSLContext, name: str) -> bool:
    """Whether a client that trusts only `context` reaches the server under `name`."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", subject.server.port, ssl=context, server_hostname=name
        )
    except ssl.SSLError:
        return False
    client = Client(reader, writer)
    answer = await client.ask(LAST % b"/healthz")
    client.close()
    return answer.status == 200


@needs_openssl
@pytest.mark.asyncio
async def test_a_new_certificate_is_used_and_a_bad_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(tmp_path, "one")
    one = trusting(tmp_path)
    async with serving(
        Subject(tls=Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")))
    ) as subject:
        assert await named(subject, one, "one")
        make_certificate(tmp_path, "two")
        two = trusting(tmp_path)
        assert await named(subject, two, "two")
        assert not await named(subject, one, "one")
        (tmp_path / "tls.key").write_text("nonsense")
        assert await named(subject, two, "two")
        (tmp_path / "tls.crt").unlink()
        assert await named(subject, two, "two")
        make_certificate(tmp_path, "three")
        assert await named(subject, trusting(tmp_path), "three")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert {record.getMessage() for record in warnings} == {
        "the new certificate cannot be used, the old one stays"
    }
    assert errors(caplog) == []


@needs_openssl
@pytest.mark.asyncio
async def test_no_tls_before_1_2_and_nothing_without_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(tmp_path, "one")
    tls = Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    async with serving(Subject(tls=tls, limits=Limits(head_seconds=0.2))) as subject:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting(tmp_path)
            context.minimum_version = context.maximum_version = version
            assert await named(subject, context, "one")
        assert Certificate(tls).context().minimum_version is ssl.TLSVersion.TLSv1_2
        plain, silent = await subject.connect(), await subject.connect()
        plain.send(LAST % b"/healthz")
        assert not (await plain.rest()).startswith(b"HTTP")
        assert await silent.rest() == b""
        plain.close()
        silent.close()
        assert await named(subject, trusting(tmp_path), "one")
    assert errors(caplog) == []


@needs_openssl
@pytest.mark.asyncio
async def test_a_certificate_that_comes_later_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = Subject(tls=Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")))
    running = asyncio.create_task(subject.server.run())
    await becomes(lambda: bool(errors(caplog)))
    assert "tls.crt" in vars(errors(caplog)[0])["reason"]
    make_certificate(tmp_path, "late")
    async with asyncio.timeout(SECONDS):
        await subject.server.listening.wait()
    assert await named(subject, trusting(tmp_path), "late")
    running.cancel()
    await asyncio.wait({running})
