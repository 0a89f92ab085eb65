"""The addresses at which HTTP is served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import pytest

from plugin.core.grammars import Address

from .http_subject import LAST, Subject, errors, serving
from .waiting import SECONDS, becomes


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.asyncio
async def test_without_a_host_it_listens_everywhere() -> None:
    async with serving(Subject(Address("", 0))) as subject:
        assert (await subject.ask(LAST % b"/healthz")).status == 200
        if socket.has_ipv6:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("::1", subject.server.port)) as client,
            ):
                assert client.getpeername()[1] == subject.server.port


@pytest.mark.asyncio
async def test_without_an_address_nothing_is_served() -> None:
    subject = Subject(None)
    await subject.server.run()
    assert subject.server.port is None


@pytest.mark.asyncio
async def test_a_taken_address_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        subject = Subject(Address("127.0.0.1", port))
        running = asyncio.create_task(subject.server.run())
        await becomes(lambda: bool(errors(caplog)))
        (error, *_) = errors(caplog)
        assert error.getMessage() == "cannot serve HTTP, retrying"
        assert "in use" in vars(error)["reason"]
        assert not subject.server.listening.is_set()
    async with asyncio.timeout(SECONDS):
        await subject.server.listening.wait()
    assert (await subject.ask(LAST % b"/healthz")).status == 200
    running.cancel()
    await asyncio.wait({running})
