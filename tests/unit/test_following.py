"""Following the configuration: what is taken, what is refused, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugin.assembly import assemble
from plugin.config.load import CommandLine, Loaded
from plugin.core.configuration import Configuration, Waiting
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.following.follower import Follower
from plugin.following.kept_file import KeptFile
from plugin.following.label_file import LabelFile
from plugin.following.start import LABEL_FILE, Start, begin, newest
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate
from plugin.state.writer import Writer
from plugin.web.health import readiness
from tests.integration.waiting import becomes
from tests.unit.metric_views import view

# ruff: noqa: ASYNC240 — the files are in a folder of the test
pytestmark = pytest.mark.asyncio

LABEL = "nvidia.com/device-plugin.config"
NOT_TAKEN = "configuration not taken, the old one stays"
READ = "configuration read again"
RESTART = "option changed, which takes effect after a restart"


@dataclass
class Scene:
    """A follower at work. ``environment`` says where its configuration is."""

    writer: Writer
    follower: Follower
    ledger: Path
    log: pytest.LogCaptureFixture

    @property
    def snapshot(self) -> Snapshot:
        return self.writer.store.snapshot

    @property
    def configuration(self) -> Configuration:
        return self.snapshot.configuration

    async def becomes(self, **fields: object) -> None:
        await becomes(
            lambda: all(getattr(self.configuration, k) == v for k, v in fields.items()),
            lambda: self.configuration,
        )

    async def signalled(self) -> None:
        """A SIGHUP whose configuration was read."""
        before = self.lines(READ) + self.lines(NOT_TAKEN)
        self.follower.reread()
        await becomes(lambda: self.lines(READ) + self.lines(NOT_TAKEN) > before)

    def lines(self, message: str) -> int:
        return [record.message for record in self.log.records].count(message)


@contextlib.asynccontextmanager
async def following(
    folder: Path, log: pytest.LogCaptureFixture, environment: dict[str, str]
) -> AsyncIterator[Scene]:
    """From the start of a process to its end."""
    log.set_level(logging.INFO)
    line, ledger = CommandLine({}, environment), folder / "state" / "ledger.json"
    kept = KeptFile(ledger.with_name("configuration.json"))
    start = begin(line, newest(line), LabelFile(ledger.with_name(LABEL_FILE)), kept)
    driver = simulate(parse_node("1xa100-40gb:all-1g.5gb")).driver
    daemon = assemble(start.loaded.settings, driver, ledger, configuration=start.configuration)
    await daemon.start()
    follower = Follower(daemon.writer, line.read, start, ledger, kept, settle=0.02)
    running = asyncio.create_task(follower.run())
    try:
        yield Scene(daemon.writer, follower, ledger, log)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def write(path: Path, **plugin: object) -> None:
    path.write_text(json.dumps({"version": "v1", "flags": {"plugin": plugin}}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    write(path, rescanInterval=10)
    return path


async def test_good_bad_gone_and_back(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        assert scene.configuration == Configuration()
        write(file, rescanInterval=11)
        await scene.becomes(taken=1)
        assert scene.snapshot.settings.rescan_seconds == 11
        write(file, rescanInterval="often")
        await scene.becomes(refused=1)
        assert scene.snapshot.settings.rescan_seconds == 11
        assert "flags.plugin.rescanInterval: 'often' is not" in scene.configuration.problem
        # Everybody sees it; the node stays ready.
        (problem,) = document(scene.snapshot, "daemon")["problems"]
        assert problem.startswith("the configuration was refused, the old one stays in force: ")
        assert "'often'" in problem
        file.unlink()
        await scene.becomes(refused=2)
        assert "cannot be read: No such file" in scene.configuration.problem
        assert scene.snapshot.settings.rescan_seconds == 11
        write(file, rescanInterval=11)
        await scene.becomes(taken=2, problem="")
        assert document(scene.snapshot, "daemon")["problems"] == []


async def test_a_problem_is_a_note_of_the_readiness_and_does_not_fail_it() -> None:
    verdict = readiness(view(Inventory()))
    assert any("the configuration was refused" in note for note in verdict.notes)
    assert not any("configuration" in reason for reason in verdict.reasons)


async def test_nothing_new_changes_and_says_nothing(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        write(file, rescanInterval=11)
        await scene.becomes(taken=1)
        generation = scene.snapshot.generation
        file.write_text(file.read_text() + "\n")  # another file with the same contents
        write(tmp_path / "new", rescanInterval=11)
        (tmp_path / "new").rename(file)
        await scene.signalled()  # read after those
        assert scene.configuration.taken == 2, "by the signal alone"
        assert scene.snapshot.generation == generation + 1
        assert scene.lines(READ) == 2


async def test_one_line_for_a_problem_and_another_after_a_signal(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        file.write_text("x: 1")
        await scene.becomes(refused=1)
        file.write_text("x: 2")
        await scene.signalled()
        assert scene.lines(NOT_TAKEN) == 2
        file.write_text("y: 1")
        await becomes(lambda: "y is not known" in scene.configuration.problem)


async def test_a_change_that_needs_a_restart_has_one_line(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change = Waiting("flags.plugin.dcgmNames", "false", "true")
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        write(file, rescanInterval=10, dcgmNames=True)
        await scene.becomes(taken=1)
        assert scene.configuration.waiting == (change,)
        assert (
            "restart: flags.plugin.dcgmNames" in document(scene.snapshot, "daemon")["problems"][0]
        )
        write(file, rescanInterval=12, dcgmNames=True)
        await scene.becomes(taken=2)
        await scene.signalled()
        assert scene.lines(RESTART) == 1
        write(file, rescanInterval=12)
        await scene.becomes(taken=4, waiting=())
        write(file, rescanInterval=12, dcgmNames=True)
        await scene.becomes(taken=5)
        assert scene.lines(RESTART) == 2


async def test_a_folder_that_comes_back_later(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    file = file.rename(folder / "config.yaml")
    async with following(tmp_path, caplog, {"CONFIG_FILE": str(file)}) as scene:
        folder.rename(tmp_path / "away")
        await scene.becomes(refused=1)
        (tmp_path / "away").rename(folder)
        await scene.becomes(problem="", taken=1)
        assert scene.snapshot.settings.rescan_seconds == 10


async def test_a_bug_costs_a_traceback_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read(_label: str) -> Loaded:
        raise ZeroDivisionError

    driver = simulate(parse_node("1xa100-40gb")).driver
    daemon = assemble(Settings(), driver, tmp_path / "ledger.json")
    await daemon.start()
    start = Start(Loaded(Settings()))
    follower = Follower(daemon.writer, read, start, tmp_path / "ledger.json")
    running = asyncio.create_task(follower.run())
    follower.reread()
    await becomes(lambda: bool(daemon.writer.store.snapshot.configuration.problem))
    assert daemon.writer.store.snapshot.configuration.problem == "ZeroDivisionError()"
    assert any(record.exc_info for record in caplog.records)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---- several configurations


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    write(folder / "default", rescanInterval=10)
    write(folder / "fast", rescanInterval=5)
    return folder


def labelled(configs: Path) -> dict[str, str]:
    return {"CONFIG_DIR": str(configs), "CONFIG_LABEL": LABEL}


async def test_the_label_chooses(
    tmp_path: Path, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path, caplog, labelled(configs)) as scene:
        assert scene.configuration.name == "default"
        scene.follower.choose("fast")
        await scene.becomes(name="fast", taken=1)
        assert scene.snapshot.settings.rescan_seconds == 5
        scene.follower.choose("unknown")
        await scene.becomes(name="fast", refused=1)
        assert "'unknown', which the node's label" in scene.configuration.problem
        assert "the choices are default, fast" in scene.configuration.problem
        assert scene.snapshot.settings.rescan_seconds == 5
        scene.follower.choose("")
        await scene.becomes(name="default", problem="")
        assert scene.snapshot.settings.rescan_seconds == 10


async def test_a_name_that_comes_later(
    tmp_path: Path, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path, caplog, labelled(configs)) as scene:
        scene.follower.choose("new")
        await scene.becomes(refused=1)
        write(configs / "new", rescanInterval=7)
        await scene.becomes(name="new", problem="")
        (configs / "new").unlink()
        await scene.becomes(name="new", refused=2)
        assert scene.snapshot.settings.rescan_seconds == 7


async def test_the_label_of_the_last_time_holds_at_the_next_start(
    tmp_path: Path, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path, caplog, labelled(configs)) as scene:
        kept = LabelFile(scene.ledger.with_name(LABEL_FILE))
        scene.follower.choose("fast")
        await becomes(lambda: kept.read() == "fast")
        scene.follower.choose("unknown")
        await scene.becomes(refused=1)
        assert kept.read() == "fast", "what was taken is kept, not what was asked for"
    async with following(tmp_path, caplog, labelled(configs)) as scene:
        assert scene.configuration.name == "fast"
        scene.follower.choose("")
        await becomes(lambda: kept.read() == "")
    (configs / "fast").unlink()
    kept.write("fast")
    async with following(tmp_path, caplog, labelled(configs)) as scene:
        assert scene.configuration.name == "default"
        message = "the configuration that the node's label named last cannot be used"
        assert scene.lines(message) == 1


async def test_a_name_given_by_an_option_is_not_asked_of_the_label(
    tmp_path: Path, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {**labelled(configs), "CONFIG_NAME": "fast"}
    ledger = tmp_path / "state" / "ledger.json"
    LabelFile(ledger.with_name(LABEL_FILE)).write("default")
    async with following(tmp_path, caplog, environment) as scene:
        assert scene.configuration.name == "fast"


async def test_a_label_that_cannot_be_kept_is_followed_all_the_same(
    tmp_path: Path, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("no folder")
    async with following(tmp_path, caplog, labelled(configs)) as scene:
        scene.follower.choose("fast")
        await scene.becomes(name="fast")
        message = "the value of the node's label cannot be kept for the next start"
        await becomes(lambda: scene.lines(message) == 1)
