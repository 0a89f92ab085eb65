"""HTTP requests and what they are answered, over real sockets."""

from __future__ import annotations

import json
import logging

import pytest
from msgspec.structs import replace

from plugin.core.view import View

from .http_subject import GET, LAST, SEEN, Subject, errors, serving

PATHS = ("/", "/api/v1/state", "/metrics", "/healthz", "/readyz")


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


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
        subject.view = lambda: replace(SEEN, stuck=("events",), driver_busy=99.0, resources=())
        ill, unready = await subject.ask(LAST % b"/healthz"), await subject.ask(LAST % b"/readyz")
    assert (ill.status, unready.status) == (503, 503)
    assert json.loads(ill.body)["reasons"] == ["the task events does not run"]
    assert json.loads(unready.body)["notes"] == [
        "the driver has not come back from a call for 99 s"
    ]
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
async def test_names_of_others_are_not_served() -> None:
    """A site whose name resolves to this node must not read what pods there are."""
    async with serving(Subject()) as subject:
        for path in (*PATHS, "/nothing"):
            foreign = LAST.replace(b"Host: node", b"Host: evil.example:9400") % path.encode()
            refused = await subject.ask(foreign)
            assert refused.status == 421
            assert b"--http-hosts" in refused.body
        for host in (b"127.0.0.1:9400", b"[::1]:9400", b"localhost", b"node-7:9400"):
            served = LAST.replace(b"Host: node", b"Host: " + host) % b"/healthz"
            assert (await subject.ask(served)).status == 200


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
