"""Bearer tokens: who is let in, and a file that changes or cannot be used."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from plugin.web.http.bearer import Bearers
from plugin.web.http.message import Request, Response
from plugin.web.routes import Site
from tests.web.scenes import balanced

GUARDED = ("/", "/api/v1/state", "/metrics", "/nothing")
PROBES = ("/healthz", "/readyz")


def asked(path: str, authorization: str | None = None) -> Request:
    headers = {} if authorization is None else {"authorization": authorization}
    return Request("GET", path, {"host": "node-7", **headers})


def answer(site: Site, request: Request) -> Response:
    async def ask() -> Response:
        return await site(request)

    return asyncio.run(ask())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("s3cret-Token.1~_+/==\n\nother\n")
    return path


def lets_in(bearers: Bearers, token: str) -> bool:
    return bearers.refusal(asked("/", f"Bearer {token}")) is None


def replaced(path: Path, content: str) -> None:
    """As a mounted secret changes: the name leads to another file."""
    new = path.with_name("new")
    new.write_text(content)
    new.rename(path)


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Bearer othe", 401),
        ("Bearer other other", 401),
        ("Bearer other, Bearer other", 401),
        ("Basic other", 401),
        ("other", 401),
        ("Bearer \xff\udcff", 401),
        ("Bearer other", 200),
        ("bearer   other ", 200),
        ("Bearer s3cret-Token.1~_+/==", 200),
    ],
)
def test_everything_but_the_probes_wants_a_token(
    file: Path, path: str, authorization: str | None, status: int
) -> None:
    site = Site(balanced, hostname="node-7", bearers=Bearers(str(file)))
    response = answer(site, asked(path, authorization))
    assert response.status == (404 if (status, path) == (200, "/nothing") else status)
    assert (response.headers.get("WWW-Authenticate", "")[:6] == "Bearer") == (status == 401)
    if status == 401:
        assert b"MIG-" not in response.body


@pytest.mark.parametrize("path", PROBES)
def test_probes_want_none(file: Path, path: str) -> None:
    site = Site(balanced, hostname="node-7", bearers=Bearers(str(file)))
    assert answer(site, asked(path)).status != 401
    assert answer(site, asked(path, "Bearer wrong")).status != 401


@pytest.mark.parametrize("path", GUARDED)
def test_without_a_file_nobody_needs_one(path: str) -> None:
    site = Site(balanced, hostname="node-7")
    assert answer(site, asked(path)).status == (404 if path == "/nothing" else 200)


def test_a_new_token_counts_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bearers = Bearers(str(file))
    assert lets_in(bearers, "other")
    replaced(file, "fresh-7")
    assert not lets_in(bearers, "other")
    assert lets_in(bearers, "fresh-7")
    (record,) = caplog.records
    assert record.getMessage() == "tokens reloaded"
    assert "fresh-7" not in str(vars(record))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no tokens"),
        (" \n\t\n", "has no tokens"),
        ("two words", "is no token: use"),
        ("ü", "no token"),
        ("a\0b", "no token"),
        ("x" * 70_000, "is larger than 65536 bytes"),
        (None, "No such file"),
    ],
)
def test_an_unusable_file_is_told_once_and_the_old_token_stays(
    file: Path, content: str | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    bearers = Bearers(str(file))
    if content is None:
        file.unlink()
    else:
        replaced(file, content)
    for _ in range(3):
        assert lets_in(bearers, "other")
    (record,) = caplog.records
    assert record.getMessage() == "token file unusable"
    assert reason in vars(record)["reason"]
    assert vars(record)["kept"]
    assert "two words" not in vars(record)["reason"]


@pytest.mark.parametrize("kind", ["missing", "empty", "fifo"])
def test_a_file_that_was_never_usable_lets_nobody_in(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    bearers = Bearers(str(path))
    assert [vars(record)["kept"] for record in caplog.records] == [False]
    for token in ("", "x"):
        assert not lets_in(bearers, token)
    replaced(path, "x")
    assert lets_in(bearers, "x")
