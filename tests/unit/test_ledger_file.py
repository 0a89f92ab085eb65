"""The ledger on disk: whose it is, what may lie at its path, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin.core.health.ledger import Entry, Ledger
from plugin.core.health.merging import merged
from plugin.core.reasons import Clears, Code, Reason
from plugin.loops.aside import Aside
from plugin.state.ledger_file import MOST_BYTES, LedgerFile, Saved
from plugin.state.lock import FileLock

BOOT = "a-boot"


def cordoned(*uuids: str) -> Ledger:
    reason = Reason.held(Code.CORDONED, "cordoned", 1.0, Clears.OPERATOR)
    return {uuid: Entry(uuid, reasons=(reason,)) for uuid in uuids}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.json"


@contextlib.asynccontextmanager
async def running(file: LedgerFile) -> AsyncIterator[None]:
    task = asyncio.create_task(file.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def write(path: Path, ledger: Ledger) -> str | None:
    """What a process that loads, saves once and ends says of it."""
    file = LedgerFile(path, BOOT)
    file.load()
    async with running(file):
        file.save(ledger, 0.0)
        return await file.saved()


def read(path: Path, boot: str = BOOT) -> Saved:
    file = LedgerFile(path, boot)
    try:
        return file.load()
    finally:
        file.close()


# ---- what is kept


@pytest.mark.asyncio
async def test_what_was_saved_is_loaded_and_nothing_else_is_left(path: Path) -> None:
    assert await write(path, cordoned("GPU-0")) is None
    assert list(path.parent.iterdir()) == [path]
    assert read(path).ledger == cordoned("GPU-0")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("boot", "rebooted", "offset"),
    [(BOOT, False, 7.0), ("another", True, None), ("", False, None)],
)
async def test_the_offset_of_its_times_is_known_within_a_boot(
    path: Path,
    boot: str,
    rebooted: bool,  # noqa: FBT001
    offset: float | None,
) -> None:
    file = LedgerFile(path, BOOT)
    async with running(file):
        file.save(cordoned("GPU-0"), 7.0)
        assert await file.saved() is None
    saved = read(path, boot)
    assert (saved.rebooted, saved.offset) == (rebooted, offset)


# ---- whose it is


@pytest.mark.asyncio
async def test_a_second_process_says_that_it_cannot_save(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = LedgerFile(path), LedgerFile(path)
    first.load()
    second.load()
    async with running(first), running(second):
        first.save(cordoned("GPU-0"), 0.0)
        assert await first.saved() is None
        second.save(cordoned("GPU-1"), 0.0)
        problem = await second.saved()
        assert problem is not None
        assert "another daemon saves its ledger in this file" in problem
        assert read(path).ledger == cordoned("GPU-0")
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [r.getMessage() for r in warnings] == [
        "the ledger cannot be saved; verdicts will not outlive a restart"
    ]


@pytest.mark.asyncio
async def test_a_second_process_says_so_though_it_has_nothing_to_save(path: Path) -> None:
    holder, second = LedgerFile(path), LedgerFile(path)
    holder.load()
    second.load()
    async with running(second):
        second.save({}, 0.0)
        assert "another daemon" in (await second.saved() or "")
    holder.close()


@pytest.mark.asyncio
async def test_it_takes_over_with_what_was_saved_meanwhile(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await write(path, cordoned("GPU-0"))
    first, second = LedgerFile(path), LedgerFile(path, retry_seconds=0.01)
    first.load()
    ours = second.load().ledger
    taken_over = asyncio.Event()

    def found(base: Ledger, saved: Saved) -> None:
        nonlocal ours
        ours = merged(base, ours, saved.ledger)
        second.save(ours, 0.0)
        taken_over.set()

    second.on_found = found
    async with running(second):
        ours = {**ours, **cordoned("GPU-2")}
        second.save(ours, 0.0)
        assert await second.saved() is not None
        async with running(first):
            first.save(cordoned("GPU-1"), 0.0)  # no longer GPU-0
            assert await first.saved() is None
        async with asyncio.timeout(5):
            await taken_over.wait()
        assert await second.saved() is None
    kept = {uuid for uuid, entry in read(path).ledger.items() if entry.reasons}
    assert kept == {"GPU-1", "GPU-2"}
    messages = [r.getMessage() for r in caplog.records]
    assert "another process has changed the ledger, merging both" in messages
    assert "the ledger can be saved again" in messages


@pytest.mark.asyncio
async def test_a_lock_that_was_removed_is_not_held_any_more(path: Path) -> None:
    first = LedgerFile(path)
    first.load()
    path.with_name("ledger.json.lock").unlink()
    second = LedgerFile(path)
    second.load()
    async with running(second), running(first):
        first.save(cordoned("GPU-0"), 0.0)
        assert "another daemon" in (await first.saved() or "")
        second.save(cordoned("GPU-1"), 0.0)
        assert await second.saved() is None


@pytest.mark.asyncio
async def test_a_file_that_was_deleted_takes_no_verdict_with_it(path: Path) -> None:
    file = LedgerFile(path)
    await write(path, cordoned("GPU-0"))
    ledger = file.load().ledger
    for each in list(path.parent.iterdir()):
        each.unlink()
    async with running(file):
        file.save({**ledger, **cordoned("GPU-1")}, 0.0)
        assert await file.saved() is None
    assert read(path).ledger.keys() == {"GPU-0", "GPU-1"}


def test_a_lock_never_waits_and_follows_no_link(tmp_path: Path) -> None:
    path, victim = tmp_path / "x.lock", tmp_path / "victim"
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(path)
    assert not victim.exists()
    path.unlink()
    os.mkfifo(path)
    lock = FileLock(path)
    with pytest.raises(BlockingIOError):
        FileLock(path)
    lock.release()


# ---- what lies there


def lay(path: Path, kind: str) -> os.stat_result:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(kind)
    return path.lstat()


def is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


@pytest.mark.asyncio
async def test_links_in_the_folder_lead_nowhere(path: Path) -> None:
    victim = path.parent / "victim"
    victim.write_text("precious")
    lay(path, str(victim))
    # What earlier versions called their file.
    lay(path.with_name(f".{path.name}.{os.getpid()}"), str(victim))
    assert await write(path, cordoned("GPU-0")) is None
    assert victim.read_text() == "precious"
    assert is_file(path)


@pytest.mark.asyncio
async def test_what_a_killed_process_left_is_removed(path: Path) -> None:
    left, other = path.with_name(f".{path.name}.0123456789abcdef"), path.with_name(".ledger.json")
    left.touch()
    other.touch()
    assert await write(path, cordoned("GPU-0")) is None
    assert sorted(path.parent.iterdir()) == sorted([path, other])


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["fifo", "folder"])
async def test_what_is_no_file_holds_nobody_up_and_is_not_replaced(path: Path, kind: str) -> None:
    before = lay(path, kind)
    file = LedgerFile(path)
    async with asyncio.timeout(5):
        assert file.load() == Saved()
        async with running(file):
            file.save(cordoned("GPU-0"), 0.0)
            assert "is not a regular file" in (await file.saved() or "")
    assert os.lstat(path) == before


@pytest.mark.asyncio
async def test_an_endless_device_is_not_read(path: Path) -> None:
    lay(path, "/dev/zero")
    async with asyncio.timeout(5):
        assert await write(path, cordoned("GPU-0")) is None
    assert is_file(path)


@pytest.mark.asyncio
async def test_a_file_that_is_too_large_is_set_aside(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert await write(path, cordoned("GPU-0")) is None
    assert path.with_name("ledger.json.corrupt").stat().st_size == MOST_BYTES + 1


def test_who_does_not_have_the_file_sets_nothing_aside(path: Path) -> None:
    holder = LedgerFile(path)
    holder.load()
    path.write_text("{not json")
    assert read(path) == Saved()
    assert path.read_text() == "{not json"
    holder.close()


def test_half_characters_and_endless_texts_become_ones_that_can_be_shown(path: Path) -> None:
    entry = {
        "gpu": "GPU-\ud800",
        "gi": None,
        "ci": None,
        "flaps": -1,
        "recovered": None,
        "reasons": [
            {
                "code": "xid-\udfff",
                "text": "\ud83d" + "x" * 100_000,
                "since": 1,
                "last": 1,
                "clears": "recovery",
            }
        ],
    }
    path.write_text(json.dumps({"devices/v1": {"GPU-\ud800": entry}}))
    ((uuid, found),) = read(path).ledger.items()
    texts = [uuid, found.gpu_uuid, found.reasons[0].code, found.reasons[0].text]
    assert [text.encode()[:5] for text in texts] == [b"GPU-?", b"GPU-?", b"xid-?", b"?xxxx"]
    assert len(texts[3]) == 1000
    assert found.flaps == 0


@pytest.mark.asyncio
async def test_a_disk_that_fails_leaves_no_pieces(path: Path) -> None:
    """Here: a folder, which no file replaces."""
    file = LedgerFile(path)
    file.load()
    lay(path, "folder")
    async with running(file):
        file.save(cordoned("GPU-0"), 0.0)
        assert await file.saved() is not None
    assert list(path.parent.iterdir()) == [path]


# ---- a file system that hangs


class Hanging(LedgerFile):
    """Does not load before it is told to."""

    def __init__(self, path: Path, aside: Aside) -> None:
        super().__init__(path, aside=aside)
        self.answers = threading.Event()

    def load(self) -> Saved:
        self.answers.wait(10)
        return super().load()


@pytest.mark.asyncio
async def test_what_is_loaded_too_late_is_taken_over_like_another_processes(path: Path) -> None:
    await write(path, cordoned("GPU-0"))
    aside = Aside("ledger", 0.05)
    file = Hanging(path, aside)
    assert await file.loaded() == Saved()
    taken_over = asyncio.Event()

    def found(base: Ledger, saved: Saved) -> None:
        file.save(merged(base, cordoned("GPU-1"), saved.ledger), 0.0)
        taken_over.set()

    file.on_found = found
    file.answers.set()
    assert aside.thread is not None
    await asyncio.to_thread(aside.thread.join)
    async with running(file):
        file.save(cordoned("GPU-1"), 0.0)
        async with asyncio.timeout(5):
            await taken_over.wait()
        assert await file.saved() is None
    assert read(path).ledger == cordoned("GPU-0", "GPU-1")


@pytest.mark.asyncio
async def test_what_is_loaded_in_time_is_there(path: Path) -> None:
    await write(path, cordoned("GPU-0"))
    file = LedgerFile(path, BOOT)
    assert (await file.loaded()).ledger == cordoned("GPU-0")
    file.close()


@pytest.mark.asyncio
async def test_the_loop_ends_while_the_file_system_hangs(path: Path) -> None:
    aside, answers = Aside("ledger", 0.05), threading.Event()
    with pytest.raises(TimeoutError):
        await aside.call(answers.wait)
    file = LedgerFile(path, aside=aside)
    async with asyncio.timeout(5), running(file):
        file.save(cordoned("GPU-0"), 0.0)
        assert "the last call of ledger has not returned" in (await file.saved() or "")
    assert read(path) == Saved()
    answers.set()
