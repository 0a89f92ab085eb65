"""Watching files: editors, ConfigMaps, folders that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from plugin.following.watch import FileWatch, look
from tests.integration.waiting import becomes

pytestmark = pytest.mark.asyncio

both = pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])


class Watched:
    """Counts the changes of a path."""

    def __init__(self) -> None:
        self.changes = 0
        self.seen = 0

    def changed(self) -> None:
        self.changes += 1

    async def next(self) -> None:
        """Wait for a change since the last one that was waited for."""
        await becomes(lambda: self.changes > self.seen)
        self.seen = self.changes


@contextlib.asynccontextmanager
async def watching(path: Path, *, inotify: bool = True) -> AsyncIterator[Watched]:
    watched = Watched()
    running = asyncio.create_task(
        FileWatch(path, watched.changed, inotify=inotify, settle=0.02, poll=0.02).run()
    )
    try:
        await watched.next()  # the first look
        yield watched
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def swap(folder: Path, version: str, **files: str) -> None:
    """What kubelet does to a ConfigMap's volume."""
    data = folder / f"..{version}"
    data.mkdir()
    for name, text in files.items():
        (data / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(data.name)
    old = folder / "..data"
    former = old.resolve() if old.is_symlink() else None
    (folder / "..data_tmp").rename(old)
    if former is not None:
        shutil.rmtree(former)


def in_place(path: Path) -> None:
    with path.open("a") as file:
        file.write("more")


def replaced(path: Path) -> None:
    new = path.with_name(".new")
    new.write_text("other")
    new.rename(path)


def linked_elsewhere(path: Path) -> None:
    (path.parent / "other").write_text("other")
    path.unlink()
    path.symlink_to("other")


@both
@pytest.mark.parametrize(
    "change",
    [in_place, replaced, linked_elsewhere, Path.unlink, lambda path: path.chmod(0o600)],
    ids=["in place", "replaced", "linked elsewhere", "deleted", "mode"],
)
async def test_a_file(tmp_path: Path, change: Callable[[Path], object], *, inotify: bool) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("one")
    async with watching(path, inotify=inotify) as watched:
        change(path)
        await watched.next()
        path.unlink(missing_ok=True)
        path.write_text("back")
        await watched.next()


@both
@pytest.mark.parametrize("directory", [True, False], ids=["directory", "file"])
async def test_a_config_map(tmp_path: Path, *, directory: bool, inotify: bool) -> None:
    swap(tmp_path, "1", a="1")
    async with watching(tmp_path if directory else tmp_path / "a", inotify=inotify) as watched:
        for version in ("2", "3", "4"):
            swap(tmp_path, version, a=version)
            await watched.next()


@both
async def test_what_a_link_leads_to(tmp_path: Path, *, inotify: bool) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    target, path = tmp_path / "far/target", tmp_path / "near/config.yaml"
    target.write_text("1")
    path.symlink_to(target)
    async with watching(path, inotify=inotify) as watched:
        in_place(target)
        await watched.next()


@both
async def test_a_directory_that_gets_files(tmp_path: Path, *, inotify: bool) -> None:
    async with watching(tmp_path, inotify=inotify) as watched:
        (tmp_path / "a").write_text("1")
        await watched.next()
        (tmp_path / "a").rename(tmp_path / "b")
        await watched.next()


@both
async def test_a_folder_that_comes_late_goes_and_comes_back(
    tmp_path: Path, *, inotify: bool
) -> None:
    path = tmp_path / "later" / "config.yaml"
    async with watching(path, inotify=inotify) as watched:
        for _ in range(2):
            path.parent.mkdir()
            path.write_text("1")
            await watched.next()
            shutil.rmtree(path.parent)
            await watched.next()


async def test_a_file_written_in_pieces_is_one_change(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    async with watching(path) as watched:
        with path.open("w") as file:
            for _ in range(20):
                file.write("x" * 100)
                file.flush()
                os.fsync(file.fileno())
        await watched.next()
        assert watched.changes == 2, "the first look and this"


async def test_other_files_of_the_folder_are_no_change(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    async with watching(path) as watched:
        for number in range(10):
            (tmp_path / f"other{number}").write_text("x")
        in_place(path)
        await watched.next()
        assert watched.changes == 2


async def test_what_never_settles_is_a_change_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")

    async def write() -> None:
        while True:
            in_place(path)
            await asyncio.sleep(0.005)

    async with watching(path) as watched:
        writing = asyncio.create_task(write())
        await watched.next()
        writing.cancel()


async def test_a_look_never_raises(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert look(tmp_path / "loop") == look(tmp_path / "loop")
    assert look(Path("/nowhere/at/all")).folders == frozenset()
    assert look(tmp_path / "loop").stamp != look(tmp_path).stamp
