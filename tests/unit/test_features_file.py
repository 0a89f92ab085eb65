"""The features file: whole, only ours, written when different, removed when it is not wanted."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.inventory.model import Inventory
from plugin.core.labels.node import labels
from plugin.core.state import Snapshot
from plugin.labels.document import HEADER, from_text, is_ours, lines, to_text
from plugin.labels.features_file import FeaturesFile, Record
from plugin.labels.publisher import FeaturesPublisher
from plugin.loops.aside import Aside
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.store import Store
from tests.integration.waiting import becomes

from .builders import gpu, mig_gpu, node, snapshot

VALUES = {"nvidia.com/gpu.count": "8", "nvidia.com/cuda.driver.rev": ""}
ONE = "nvidia.com/mig-1g.5gb.count"
names = st.from_regex(r"nvidia\.com/[a-z][a-z.-]{0,20}", fullmatch=True)
values = st.from_regex(r"[A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(st.dictionaries(names, values))
def test_a_document_is_read_as_it_is_written(labels_: dict[str, str]) -> None:
    assert from_text(to_text(labels_)) == labels_
    assert to_text(labels_) == f"{HEADER}\n{lines(labels_)}"


def test_a_document_has_a_line_for_each_label_in_order() -> None:
    assert to_text(VALUES).splitlines() == [
        HEADER,
        "nvidia.com/cuda.driver.rev=",
        "nvidia.com/gpu.count=8",
    ]


# ---- the file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "features.d"
    made.mkdir()
    return made


def test_it_is_written_once_for_everybody_to_read(folder: Path) -> None:
    file = FeaturesFile(folder / "ours")
    umask = os.umask(0o077)
    try:
        assert file.write(VALUES)
    finally:
        os.umask(umask)
    before = file.path.stat()
    assert stat.S_IMODE(before.st_mode) == 0o644
    assert not file.write(VALUES)
    after = file.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert file.read() == VALUES
    assert [path.name for path in folder.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(f"{HEADER}\nnvidia.com/gpu.count=9\n"),
        lambda path: path.chmod(0o600),
    ],
    ids=["deleted", "edited", "unreadable to others"],
)
def test_it_is_written_again_when_somebody_has_changed_it(
    folder: Path, spoil: Callable[[Path], None]
) -> None:
    file = FeaturesFile(folder / "ours")
    file.write(VALUES)
    spoil(file.path)
    assert file.write(VALUES)
    assert file.path.read_text() == to_text(VALUES)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o644


def test_what_a_killed_process_left_is_removed_and_nothing_else(folder: Path) -> None:
    (folder / f".ours.{'0' * 16}").write_text("half")
    others = {".ours.txt", f".other.{'0' * 16}", "gfd"}
    for name in others:
        (folder / name).write_text("theirs")
    FeaturesFile(folder / "ours").write(VALUES)
    assert {path.name for path in folder.iterdir()} == others | {"ours"}


def test_a_link_at_its_place_is_replaced_and_not_followed(folder: Path) -> None:
    (folder / "elsewhere").write_text("")
    (folder / "ours").symlink_to("elsewhere")
    FeaturesFile(folder / "ours").write(VALUES)
    assert (folder / "elsewhere").read_text() == ""
    assert not (folder / "ours").is_symlink()


def foreign(path: Path) -> None:
    path.write_text("nvidia.com/gpu.count=8\n")


def no_folder(path: Path) -> None:
    path.parent.rmdir()


def folder_is_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


def huge(path: Path) -> None:
    path.write_bytes(bytes(100_000))


def clear_away(folder: Path) -> None:
    if folder.is_file():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir()


OBSTACLES = [foreign, Path.mkdir, os.mkfifo, no_folder, folder_is_file, huge]


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_cannot_be_written_is_an_error_and_stays_as_it_is(
    folder: Path, obstacle: Callable[[Path], None]
) -> None:
    path = folder / "ours"
    obstacle(path)
    with pytest.raises(OSError, match=r"features\.d"):
        FeaturesFile(path).write(VALUES)


@pytest.mark.parametrize("obstacle", [foreign, Path.mkdir, no_folder])
def test_only_a_file_of_ours_is_removed(folder: Path, obstacle: Callable[[Path], None]) -> None:
    path = folder / "ours"
    obstacle(path)
    try:
        assert not FeaturesFile(path).remove()
    except OSError as error:
        assert obstacle is not foreign, error  # noqa: PT017 — a folder is not a file, or not seen
    FeaturesFile(folder.parent / "mine").write(VALUES)
    assert FeaturesFile(folder.parent / "mine").remove()
    assert not (folder.parent / "mine").exists()


@pytest.mark.parametrize("text", ["", "relative\n", "\0\n", "/a\0b\n"])
def test_a_record_that_names_no_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert Record(tmp_path / "record").read() is None


# ---- the loop


class Published:
    """A publisher that runs over a store."""

    def __init__(self, folder: Path, name: str, first: Snapshot, aside: Aside | None) -> None:
        self.path = folder / name
        self.store = Store(first)
        self.beats = Heartbeats()
        self.publisher = FeaturesPublisher(
            self.store,
            str(self.path) if name else "",
            folder.parent / "state/features-file",
            self.beats,
            check_seconds=0.05,
            aside=aside,
        )

    @property
    def count(self) -> str | None:
        return FeaturesFile(self.path).read().get(ONE) if self.path.is_file() else None


@asynccontextmanager
async def running(
    folder: Path,
    name: str = "ours",
    inventory: Inventory | None = None,
    geometry: int = 1,
    aside: Aside | None = None,
) -> AsyncIterator[Published]:
    inventory = inventory if inventory is not None else node(mig_gpu(0, "1g.5gb"))
    first = replace(snapshot(inventory), geometry=geometry)
    published = Published(folder, name, first, aside)
    task = asyncio.create_task(published.publisher.run())
    try:
        yield published
        assert not task.done() or task.exception() is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


TWO = node(mig_gpu(0, "1g.5gb", "1g.5gb"))


@pytest.mark.asyncio
async def test_the_file_follows_the_snapshot_and_stays_at_the_end(folder: Path) -> None:
    async with running(folder) as now:
        await becomes(lambda: now.count == "1")
        now.store.publish(replace(snapshot(TWO, generation=2), geometry=2))
        await becomes(lambda: now.count == "2")
        now.path.unlink()
        await becomes(lambda: now.count == "2")
    assert now.count == "2"


@pytest.mark.asyncio
async def test_nothing_is_written_before_the_first_scan(folder: Path) -> None:
    FeaturesFile(folder / "ours").write({ONE: "7"})
    async with running(folder, geometry=0) as now:
        assert await asyncio.to_thread(lambda: now.count) == "7"
        now.store.publish(replace(snapshot(TWO, generation=2), geometry=1))
        await becomes(lambda: now.count == "2")


@pytest.mark.asyncio
async def test_after_a_restart_a_silent_gpu_takes_nothing_away(folder: Path) -> None:
    whole = node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "1g.5gb"))
    found = labels(replace(snapshot(whole), geometry=1))
    assert found is not None
    FeaturesFile(folder / "ours").write({**found.values, "nvidia.com/gpu.machine": "old"})
    silent = replace(node(mig_gpu(0, "1g.5gb")), unreadable={1: "no answer"})
    async with running(folder, inventory=silent) as now:
        told = FeaturesFile(now.path)
        await becomes(lambda: told.read().get("nvidia.com/gpu.machine") == "unknown")
        assert now.count == "2"


@pytest.mark.asyncio
@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_what_stands_in_the_way_is_said_once_and_overcome(
    folder: Path, obstacle: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    obstacle(folder / "ours")
    async with running(folder) as now:
        await becomes(lambda: now.publisher.problem != "")
        assert "the features file cannot be written" in now.publisher.problem
        clear_away(folder)
        await becomes(lambda: now.count == "1" and not now.publisher.problem)
    assert [r.message for r in caplog.records] == [
        "the features file is not up to date, retrying",
        "features file written",
        "the features file is up to date again",
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["", "other"])
async def test_the_file_of_a_former_configuration_is_removed(folder: Path, name: str) -> None:
    async with running(folder) as before:
        await becomes(lambda: before.count == "1")
    async with running(folder, name) as now:
        await becomes(lambda: not before.path.exists())
        if name:
            await becomes(lambda: now.count == "1")
    record = Record(folder.parent / "state/features-file").read()
    assert (record.path if record is not None else None) == (now.path if name else None)
    assert now.beats.stuck() == ()


@pytest.mark.asyncio
async def test_a_former_file_in_a_folder_that_is_not_seen_is_not_taken_for_removed(
    folder: Path,
) -> None:
    async with running(folder) as before:
        await becomes(lambda: before.count == "1")
    hidden = folder.parent / "hidden"
    os.rename(folder, hidden)  # noqa: PTH104 — a method of Path would be taken for blocking
    async with running(folder, "") as now:
        await becomes(lambda: f"delete {before.path} on the node" in now.publisher.problem)
        os.rename(hidden, folder)  # noqa: PTH104 — as above
        await becomes(lambda: not before.path.exists())


@pytest.mark.asyncio
async def test_a_file_that_is_another_program_s_now_is_left_alone(folder: Path) -> None:
    async with running(folder) as before:
        await becomes(lambda: before.count == "1")
    before.path.write_text("theirs=1\n")
    async with running(folder, "other") as now:
        await becomes(lambda: now.count == "1")
    assert before.path.read_text() == "theirs=1\n"
    assert not is_ours("")


@pytest.mark.asyncio
async def test_health_alone_costs_no_look(folder: Path) -> None:
    async with running(folder, inventory=node(gpu())) as now:
        await becomes(now.path.exists)
        before = now.store.snapshot
        for generation in range(2, 50):
            now.store.publish(replace(before, generation=generation))
            await asyncio.sleep(0)
        assert not now.publisher.problem


@pytest.mark.asyncio
async def test_a_file_system_that_hangs_is_a_problem_and_keeps_nothing(folder: Path) -> None:
    aside, answers = Aside("features file", 0.01), threading.Event()
    with pytest.raises(TimeoutError):
        await aside.call(answers.wait)
    async with running(folder, aside=aside) as now:
        await becomes(lambda: "a file system does not answer" in now.publisher.problem)
        answers.set()
        await becomes(lambda: now.count == "1" and not now.publisher.problem)
