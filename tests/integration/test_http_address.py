"""The addresses at which HTTP is served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import pytest

from plugin.errors import ConfigError
from plugin.web.http.server import parse_address

from .conftest import SECONDS, becomes
from .http_subject import LAST, Subject, errors, serving


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


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
