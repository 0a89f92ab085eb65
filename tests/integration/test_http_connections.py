"""HTTP connections of all kinds of clients, over real sockets."""

from __future__ import annotations

import logging
import socket

import pytest

from plugin.web.http.server import Limits

from .http_subject import GET, LAST, Subject, errors, serving
from .waiting import becomes


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


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
        (
            (
                b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n"
            ),
            400,
        ),
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
