"""The last good configuration, kept for a start at which the newest one is refused."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.config.load import CommandLine, Source
from plugin.core.settings import Settings
from plugin.errors import ConfigError
from plugin.following.kept_file import KeptFile, kept_file
from plugin.following.label_file import LabelFile
from plugin.following.start import LABEL_FILE, Start, begin, newest
from tests.integration.waiting import becomes

from .test_following import LABEL, following, labelled, write

# ruff: noqa: ASYNC240 — the files are in a folder of the test
GOOD = Source("/etc/config.yaml", "", "version: v1\n")
USED = "configuration not taken, the last good one is used"
UNREADABLE = "the last good configuration cannot be read"
UNUSABLE = "the last good configuration cannot be used"


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def started(folder: Path, **environment: str) -> Start:
    line = CommandLine({}, environment)
    return begin(line, newest(line), LabelFile(folder / LABEL_FILE), KeptFile(folder / "kept"))


# ---- the file


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    file = KeptFile(tmp_path / "state" / "kept")
    assert file.read() is None
    for source in (GOOD, Source("/etc/configs", "shared", "ä: '\U0001f600\x00'\n")):
        file.write(source)
        assert file.read() == source
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["kept"]
    file.forget()
    file.forget()
    assert file.read() is None


def test_the_same_is_not_written_again(tmp_path: Path) -> None:
    file = KeptFile(tmp_path / "kept")
    file.write(GOOD)
    before = file.path.stat().st_ino
    file.write(GOOD)
    assert file.path.stat().st_ino == before
    file.path.chmod(0o644)
    file.write(GOOD)
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.write(GOOD._replace(text="version: v1"))
    assert file.read() != GOOD


def test_the_file_of_this_version_can_be_read_for_ever(tmp_path: Path) -> None:
    """A change of the format needs a new version, and this one still read."""
    path = tmp_path / "kept"
    path.write_text(
        '{"version": 1, "path": "/etc/configs", "name": "shared", "text": "version: v1\\n"}'
    )
    assert KeptFile(path).read() == Source("/etc/configs", "shared", "version: v1\n")


CHANGES: tuple[dict[str, object], ...] = (
    {"version": 2},
    {"version": "1"},
    {"text": None},
    {"path": 3},
    {"name": []},
)
BROKEN = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'"text"',
    b"[" * 100_000,
    *(json.dumps({"version": 1, **GOOD._asdict(), **change}).encode() for change in CHANGES),
    json.dumps(GOOD._asdict()).encode(),
    b'{"version": 1}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_broken_and_foreign_content_is_no_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(content)
    assert KeptFile(path).read() is None
    assert messages(caplog) == [UNREADABLE]
    assert path.read_bytes() == content


@given(st.binary(max_size=200))
def test_any_content_is_a_source_or_none(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("kept") / "kept"
    path.write_bytes(content)
    assert KeptFile(path).read() is None


def test_a_link_and_a_folder_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeptFile(tmp_path / "there").write(GOOD)
    (tmp_path / "kept").symlink_to("there")
    assert KeptFile(tmp_path / "kept").read() is None
    assert KeptFile(tmp_path).read() is None
    assert messages(caplog) == [UNREADABLE] * 2


def test_it_is_beside_the_ledger_and_a_simulation_without_one_keeps_nothing() -> None:
    def path(**changes: Any) -> str | None:
        file = kept_file(Settings(**changes))
        return str(file.path) if file is not None else None

    assert path() == "/var/lib/mig-device-plugin/configuration.json"
    assert path(ledger_file="/data/ledger") == "/data/configuration.json"
    assert path(simulate="1xa100-40gb") is None
    assert path(simulate="1xa100-40gb", ledger_file="/l/x") == "/l/configuration.json"


# ---- the start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    write(path, rescanInterval=10)
    return path


def keep(folder: Path, path: Path, name: str = "", seconds: int = 7) -> KeptFile:
    kept = KeptFile(folder / "kept")
    text = json.dumps({"version": "v1", "flags": {"plugin": {"rescanInterval": seconds}}})
    kept.write(Source(str(path), name, text))
    return kept


def test_a_good_file_is_used_whatever_is_kept(tmp_path: Path, file: Path) -> None:
    keep(tmp_path, file)
    start = started(tmp_path, CONFIG_FILE=str(file))
    assert (start.loaded.settings.rescan_seconds, start.problem) == (10, "")


@pytest.mark.parametrize("text", ["{", "", "version: v2", "flags: {plugin: {x: 1}}", None])
def test_instead_of_a_bad_file_the_last_good_one_is_used(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    keep(tmp_path, file)
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        CommandLine({}, {"CONFIG_FILE": str(file)}).read()
    start = started(tmp_path, CONFIG_FILE=str(file), MIG_STRATEGY="mixed")
    assert start.loaded.settings.rescan_seconds == 7
    assert start.loaded.settings.mig_strategy == "mixed", "the command line is today's"
    assert start.configuration.problem == start.problem == str(refused.value)
    assert messages(caplog) == [USED]


def test_without_a_last_good_one_the_reason_is_raised(tmp_path: Path, file: Path) -> None:
    file.write_text("version: v2")
    with pytest.raises(ConfigError, match="version: 'v2' is not valid; choose v1"):
        started(tmp_path, CONFIG_FILE=str(file))


@pytest.mark.parametrize(
    ("text", "path"),
    [("version: v0", None), ("flags: {plugin: {ofAnOldVersion: 1}}", None), (None, "/elsewhere")],
)
def test_one_that_cannot_be_used_does_not_hide_the_reason(
    tmp_path: Path,
    file: Path,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
    path: str | None,
) -> None:
    """As after an upgrade to a version that refuses what the old one took."""
    KeptFile(tmp_path / "kept").write(Source(path or str(file), "", text or "version: v1"))
    file.write_text("version: v2")
    with pytest.raises(ConfigError, match="'v2' is not valid"):
        started(tmp_path, CONFIG_FILE=str(file))
    assert messages(caplog) == [UNUSABLE]


@pytest.mark.parametrize(
    "more",
    [{"MIG_STRATEGY": "mix"}, {"CONFIG_NAME": "x"}, {"CONFIG_DIR": "/etc/configs"}],
)
def test_a_bad_command_line_is_refused_whatever_is_kept(
    tmp_path: Path, file: Path, more: dict[str, str]
) -> None:
    keep(tmp_path, file)
    with pytest.raises(ConfigError):
        started(tmp_path, CONFIG_FILE=str(file), **more)


def test_without_a_file_to_follow_nothing_is_kept(tmp_path: Path, file: Path) -> None:
    kept = keep(tmp_path, file)
    started(tmp_path)
    assert kept.read() is None


# ---- of several configurations


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    write(folder / "default", rescanInterval=10)
    write(folder / "fast", rescanInterval=5)
    return folder


@pytest.mark.parametrize(
    ("asked", "label", "kept", "used"),
    [
        ({}, "", "default", True),
        ({}, "", "gone", True),  # what went without saying
        ({"CONFIG_DEFAULT": "fast"}, "", "fast", True),
        ({"CONFIG_DEFAULT": "fast"}, "", "default", False),  # the command line is another
        ({"CONFIG_NAME": "fast"}, "default", "fast", True),
        ({"CONFIG_NAME": "typo"}, "", "fast", False),
        ({"CONFIG_DEFAULT": "typo", "CONFIG_LABEL": LABEL}, "fast", "fast", True),
        ({"CONFIG_LABEL": LABEL}, "gone", "gone", True),
        ({"CONFIG_LABEL": LABEL}, "fast", "default", False),
    ],
)
def test_the_last_good_one_must_be_the_one_that_is_asked_for(
    tmp_path: Path,
    configs: Path,
    asked: dict[str, str],
    label: str,
    kept: str,
    used: bool,  # noqa: FBT001 — a column of the table
) -> None:
    LabelFile(tmp_path / LABEL_FILE).write(label)
    keep(tmp_path, configs, kept)
    for path in configs.iterdir():
        path.write_text("version: v2")
    environment = {"CONFIG_DIR": str(configs), **asked}
    if used:
        start = started(tmp_path, **environment)
        assert (start.loaded.name, start.loaded.settings.rescan_seconds) == (kept, 7)
        assert start.problem
    else:
        with pytest.raises(ConfigError):
            started(tmp_path, **environment)


def test_the_label_s_configuration_is_good_and_the_default_is_not(
    tmp_path: Path, configs: Path
) -> None:
    LabelFile(tmp_path / LABEL_FILE).write("fast")
    (configs / "default").write_text("version: v2")
    start = started(tmp_path, **labelled(configs))
    assert (start.loaded.name, start.label, start.problem) == ("fast", "fast", "")


def hangs(hung: threading.Event) -> str:
    hung.wait()
    return "fast"


def is_away(hung: threading.Event) -> str:
    del hung
    raise OSError(errno.ESTALE, "Stale file handle")


@pytest.mark.parametrize("answer", [hangs, is_away])
def test_a_file_system_that_does_not_answer_keeps_no_start_waiting(
    tmp_path: Path,
    configs: Path,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[[threading.Event], str],
) -> None:
    hung = threading.Event()

    class Kept(KeptFile):
        def read(self) -> None:
            answer(hung)

    labels = LabelFile(tmp_path / LABEL_FILE, lambda *_, **__: answer(hung).encode())
    kept = Kept(tmp_path / "kept")
    line = CommandLine({}, {**labelled(configs), "KUBECONFIG": str(tmp_path / "none")})
    try:
        start = begin(line, newest(line), labels, kept)
        assert (start.loaded.name, start.label) == ("default", "")
        assert messages(caplog) == ["the last value of the node's label is not known"]
        (configs / "default").write_text("version: v2")
        with pytest.raises(ConfigError):
            begin(line, newest(line), labels, kept)
    finally:
        hung.set()


# ---- and then


@pytest.mark.asyncio
async def test_what_is_in_force_is_kept_and_what_is_refused_is_not(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptFile(tmp_path / "state" / "configuration.json")
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        await becomes(lambda: kept.read() is not None)
        write(file, rescanInterval=11)
        await scene.becomes(taken=1)
        good = Source(str(file), "", file.read_text())
        await becomes(lambda: kept.read() == good)
        file.write_text("version: v2")
        await scene.becomes(refused=1)
        assert kept.read() == good
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        assert "'v2' is not valid" in scene.configuration.problem
        assert scene.snapshot.settings.rescan_seconds == 11
        await scene.signalled()
        assert kept.read() == good
        write(file, rescanInterval=12)
        await scene.becomes(problem="", taken=1)
        assert scene.snapshot.settings.rescan_seconds == 12
    assert scene.lines(USED) == 1


@pytest.mark.asyncio
async def test_the_very_file_that_is_kept_comes_back(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = file.read_text()
    keep(tmp_path / "state", file).path.rename(tmp_path / "state" / "configuration.json")
    file.write_text("version: v2")
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        await asyncio.sleep(0)
        file.write_text(good)
        await scene.becomes(problem="", taken=1)


@pytest.mark.asyncio
async def test_a_folder_that_cannot_be_written_costs_a_line(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "state").write_text("no folder")
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        message = "the configuration cannot be kept for the next start"
        await becomes(lambda: scene.lines(message) == 1)
        write(file, rescanInterval=11)
        await scene.becomes(taken=1)
        await scene.signalled()
        assert scene.lines(message) == 1
