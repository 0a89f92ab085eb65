"""Kubelet's directory: what happens in it is told, also after it was deleted and made anew."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from plugin.kubelet import directory
from plugin.kubelet.directory import SocketDirectory

from .virtual_time import run


@pytest.mark.asyncio
async def test_a_directory_deleted_under_a_bound_socket_is_watched_again() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mdp-") as folder,
        socket.socket(socket.AF_UNIX) as bound,
    ):
        path = Path(folder) / "plugins"
        path.mkdir()
        watched = SocketDirectory(path)
        watching = asyncio.create_task(watched.watch())
        async with asyncio.timeout(directory.SAFETY_POLL_SECONDS / 2):
            await watched.changed()  # the watch stands
            bound.bind(str(path / "ours.sock"))
            await watched.changed()
            shutil.rmtree(path)
            path.mkdir()
            await watched.changed()  # the deletion
            await watched.changed()  # the look after it
            (path / "kubelet.sock").touch()
            await watched.changed()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_a_missing_directory_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plugins"

    async def scene() -> None:
        watched = SocketDirectory(path)
        watching = asyncio.create_task(watched.watch())
        await asyncio.sleep(60)
        path.mkdir()
        await asyncio.sleep(60)
        path.rmdir()
        await asyncio.sleep(60)
        watching.cancel()

    with caplog.at_level(logging.INFO):
        run(scene())
    assert [record.getMessage() for record in caplog.records] == [
        "kubelet's directory cannot be watched",
        "watching kubelet's directory",
        "kubelet's directory cannot be watched",
    ]


def test_sockets_and_nothing_else(tmp_path: Path) -> None:
    watched = SocketDirectory(tmp_path)
    (tmp_path / "checkpoint").touch()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "a.sock"))
    (tmp_path / "link.sock").symlink_to("a.sock")
    assert watched.sockets() == {"a.sock": watched.identity("a.sock")}
    assert SocketDirectory(tmp_path / "missing").sockets() == {}
    watched.remove("a.sock")
    watched.remove("a.sock")
    assert watched.sockets() == {}
    assert watched.identity("") is None


@pytest.mark.asyncio
async def test_a_socket_that_came_and_went_is_remembered() -> None:
    with tempfile.TemporaryDirectory(prefix="mdp-") as folder:
        watched = SocketDirectory(Path(folder))
        watching = asyncio.create_task(watched.watch())
        async with asyncio.timeout(directory.SAFETY_POLL_SECONDS / 2):
            await watched.changed()  # the watch stands
            # As kubelet writes its checkpoint: no socket, and nothing that has gone.
            (Path(folder) / ".123456").touch()
            (Path(folder) / ".123456").rename(Path(folder) / "checkpoint")
            (Path(folder) / "c.sock").touch()
            (Path(folder) / "c.sock").rename(Path(folder) / "d")
            (Path(folder) / "checkpoint").unlink()
            for name in ("a.sock", "b.sock"):
                (Path(folder) / name).touch()
                (Path(folder) / name).unlink()
            deleted: set[str] = set()
            while deleted != {"a.sock", "b.sock"}:
                await watched.changed()
                deleted |= watched.take_deleted()
        assert watched.take_deleted() == set()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
