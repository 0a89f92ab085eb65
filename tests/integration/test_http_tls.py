"""HTTP over TLS, with certificates that change."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from plugin.web.http.server import Limits, Tls
from plugin.web.http.tls import Certificate

from .http_subject import LAST, Client, Subject, errors, serving
from .waiting import SECONDS, becomes

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl to make certificates"
)


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


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
        "new certificate unusable, keeping the old one"
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
@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
async def test_what_is_no_regular_file_is_no_certificate_and_holds_nobody_up(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(tmp_path, "one")
    one = trusting(tmp_path)
    files = Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    async with serving(Subject(tls=files)) as subject:
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        assert await named(subject, one, "one")
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{name} is not a regular file" in vars(warning)["reason"]


def test_files_that_cannot_be_certificates_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    for path, why in (
        (tmp_path / "fifo", "is not a regular file"),
        (tmp_path, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "large", "has more than"),
    ):
        with pytest.raises(OSError, match=f"{path} {why}"):
            Certificate(Tls(str(path), str(path)))


@needs_openssl
@pytest.mark.asyncio
async def test_clients_in_the_handshake_count_and_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(tmp_path, "one")
    files = Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    async with serving(Subject(tls=files, limits=Limits(connections=3))) as subject:
        silent = [await subject.connect() for _ in range(8)]
        silent[-1].send(b"\x16\x03\x01")  # the first bytes of a hello
        assert await named(subject, trusting(tmp_path), "one")
        assert subject.server.connections <= 3
        assert [await client.rest() for client in silent[:5]] == [b""] * 5
        for client in silent:
            client.close()
        await becomes(lambda: subject.server.connections == 0)
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
