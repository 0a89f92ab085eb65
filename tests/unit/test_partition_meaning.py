"""What an order means when GPUs come, go and move up, and when the file becomes another one."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pynvml
import pytest

from plugin.core.partition.comparison import document
from plugin.core.partition.configuration import Configuration, Entry, Wanted
from plugin.core.partition.order import Order, Source
from plugin.core.partition.progress import GpuState, State
from plugin.errors import ConfigError
from plugin.partition.file import ConfigurationFile
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import parse_node
from tests.partition_rig import Rig, devices, rig
from tests.unit.virtual_time import run


async def until(here: Rig, state: State) -> None:
    async with asyncio.timeout(60):
        while here.progress.state is not state:
            await here.executor.rounds.wait()


MIXED = Configuration(
    "mine",
    (Entry(Wanted.of({"1g.10gb": 4}), (0,)), Entry(Wanted.of({"1g.10gb": 7}), (1,))),
)


@pytest.mark.parametrize("configuration", [None, MIXED], ids=["usual", "by index"])
def test_a_gpu_that_moves_up_keeps_what_it_has(
    tmp_path: Path, configuration: Configuration | None
) -> None:
    async def main() -> None:
        node = parse_node("1xa100-40gb+1xa100-80gb:all-enabled")
        async with rig(node, tmp_path) as here:
            name = "all-1g.10gb" if configuration is None else "mine"
            here.executor.want(Order(name, Source.COMMAND, configuration))
            assert (await here.ended()).state is State.SUCCESS
            assert devices(node) == [{"1g.10gb": 4}, {"1g.10gb": 7}]
            changes = here.worker.changes
            node.remove_gpu(0)
            here.writer.rescan()
            await asyncio.sleep(300)
            assert [gpu.index for gpu in here.inventory.gpus] == [0]
            assert here.worker.changes == changes
            assert devices(node) == [{"1g.10gb": 7}]
            assert here.progress.state is State.SUCCESS

    run(main())


@pytest.mark.parametrize("function", ["nvmlDeviceGetUUID", "nvmlDeviceGetHandleByIndex_v2"])
def test_a_gpu_that_is_known_only_later_is_partitioned_then(tmp_path: Path, function: str) -> None:
    async def main() -> None:
        node = parse_node("2xa30-24gb:all-1g.6gb")
        lost = Fail(pynvml.NVML_ERROR_GPU_IS_LOST)
        node.calls.inject(function, lost, target=node.gpu(0).uuid)
        async with rig(node, tmp_path) as here:
            here.order("all-2g.12gb")
            await here.ended()
            assert here.states() == [GpuState.REFUSED, GpuState.APPLIED]
            node.calls.restore()
            here.writer.rescan()
            await until(here, State.SUCCESS)
            assert devices(node) == [{"2g.12gb": 2}] * 2

    run(main())


# ---- the file


def text(*profiles: str) -> str:
    entry = Entry(Wanted.of(dict.fromkeys(profiles, 1)))
    return json.dumps(document([Configuration("mine", (entry,))]))


def test_a_file_that_becomes_another_one_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text(text("2g.12gb"))

    async def main() -> None:
        node = parse_node("2xa30-24gb:all-1g.6gb")
        async with rig(node, tmp_path, of_file=ConfigurationFile(str(path))) as here:
            here.order("mine")
            assert (await here.ended()).state is State.SUCCESS
            # What failed of the old one is forgotten.
            node.calls.inject(
                "nvmlGpuInstanceDestroy",
                Fail(pynvml.NVML_ERROR_UNKNOWN),
                target=node.gpu(0).uuid,
            )
            path.write_text(text("4g.24gb"))
            here.executor.look_again()
            await until(here, State.FAILED)
            node.calls.restore()
            path.write_text(text("2g.12gb", "1g.6gb"))
            here.executor.look_again()
            await until(here, State.SUCCESS)
            assert devices(node) == [{"1g.6gb": 1, "2g.12gb": 1}] * 2
            path.write_text("{")
            here.executor.look_again()
            await here.executor.rounds.wait()
            (warning,) = here.progress.warnings
            assert warning.endswith("; what the file said before holds")
            assert here.progress.state is State.SUCCESS
            # A name that is certainly not there any more is not known; what is there stays.
            path.write_text(text("2g.12gb").replace('"mine"', '"other"'))
            here.executor.look_again()
            await until(here, State.FAILED)
            assert devices(node) == [{"1g.6gb": 1, "2g.12gb": 1}] * 2

    run(main())


def test_what_was_read_last_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "node.json"
    file = ConfigurationFile(str(path))
    with pytest.raises(ConfigError):
        file()
    path.write_text(text("2g.12gb"))
    known = file()
    assert file() is known  # the same content is not read again
    with caplog.at_level(logging.ERROR):
        path.write_text("{")
        assert (file(), file()) == (known, known)
        path.unlink()
        assert file() == known
    assert [each.levelname for each in caplog.records] == ["ERROR", "ERROR"]
    path.write_text(text("4g.24gb"))
    assert file()["mine"].entries[0].wanted == Wanted.of({"4g.24gb": 1})
    assert ConfigurationFile("")() == {}


@pytest.mark.asyncio
async def test_the_file_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    file, changed = ConfigurationFile(str(path), look_seconds=0.01), asyncio.Event()
    watching = asyncio.create_task(file.run(changed.set))
    try:
        for content in (text("2g.12gb"), text("4g.24gb")):
            path.write_text(content)
            async with asyncio.timeout(10):
                await changed.wait()
            file()
            changed.clear()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
