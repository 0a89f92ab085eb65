"""Kubelet's directory: what happens in it is told, also after it was deleted and made anew."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from plugin.kubelet import directory
from plugin.kubelet.directory import SocketDirectory


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
