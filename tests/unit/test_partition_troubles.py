"""What comes in between: other orders, pods, kubelet, lost and hanging GPUs, MIG mode, the disk."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.core.partition.configuration import Configuration, Entry, Wanted
from plugin.core.partition.indices import Place
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Labelled, Memory
from plugin.core.partition.progress import GpuState, State, document
from plugin.core.partition.tracks import Before
from plugin.core.partition.trouble import Code
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import ConfigError
from plugin.partition.keeping import Keeper
from plugin.partition.memory import MemoryFile
from plugin.partitioning import MEMORY
from plugin.sim.hardware.calls import Hang
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.gpu import Work
from tests.partition_rig import SETTINGS, Rig, devices, empty_instances, over, rig, uuids
from tests.unit.virtual_time import run

SLICES = "8xa100-40gb:all-1g.5gb"
TWO = "2xa30-24gb:all-1g.6gb"
AFTER = {"1g.6gb": 2, "2g.12gb": 1}


# ---- orders


def test_ten_orders_within_a_second(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        held = uuids(here.node, 5)[3]
        here.hold("train", held)
        for number in range(10):
            here.order("all-balanced" if number % 2 else "all-2g.10gb")
            await asyncio.sleep(0.1)
        here.order("all-balanced")
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [{"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}] * 8
        assert empty_instances(here.node) == 0
        assert held in uuids(here.node, 5)
        assert here.healthy() == {"1g.5gb": 16, "2g.10gb": 8, "3g.20gb": 8}
        assert here.progress.order == 11

    over(SLICES, tmp_path, story)


@pytest.mark.parametrize("step", range(1, 7))
def test_another_order_after_each_step(tmp_path: Path, step: int) -> None:
    async def story(here: Rig) -> None:
        before = uuids(here.node, 1)

        def interrupt(number: int) -> None:
            if number == step:
                here.order("all-1g.6gb")

        here.worker.after = interrupt
        here.order("all-balanced")
        assert (await here.ended()).configuration == "all-1g.6gb"
        assert here.progress.state is State.SUCCESS
        assert devices(here.node) == [{"1g.6gb": 4}] * 2
        if step < 6:
            assert uuids(here.node, 1) == before
        # What was half-made in between was never handed out.
        assert all(len(up) <= 8 for up, _ in here.lists)
        assert not [p for s in here.problems for p in s]
        assert empty_instances(here.node) == 0
        assert here.healthy() == {"1g.6gb": 8}

    over(TWO, tmp_path, story)


def test_a_withdrawn_order_leaves_what_is_there(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.hold("train", uuids(here.node, 0)[0], uuids(here.node, 0)[1], uuids(here.node, 0)[2])
        here.order("all-4g.24gb")
        await here.settled()
        assert here.states() == [GpuState.WAITING, GpuState.APPLIED]
        assert here.healthy() == {"4g.24gb": 1}
        here.executor.want(None)
        await here.settled()
        assert here.progress.state is State.IDLE
        assert here.healthy() == {"1g.6gb": 4, "4g.24gb": 1}

    over(TWO, tmp_path, story)


def test_an_unknown_name_changes_nothing(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        with pytest.raises(ConfigError, match="did you mean all-balanced"):
            await here.executor.check(Order("all-balance", Source.LABEL))
        here.order("all-balance")
        progress = await here.ended()
        assert progress.state is State.FAILED
        assert progress.trouble is not None
        assert progress.trouble.code is Code.UNKNOWN_CONFIGURATION
        assert "all-2g.12gb" in progress.trouble.text
        assert here.worker.changes == 0
        assert here.healthy() == {"1g.6gb": 8}

    over(TWO, tmp_path, story)


def test_a_configuration_of_a_file_names_some_gpus(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        mine = Configuration("mine", (Entry(Wanted.of({"2g.12gb": 2}), (1,)),))
        here.executor.want(Order("mine", Source.COMMAND, mine))
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [{"1g.6gb": 4}, {"2g.12gb": 2}]
        assert [gpu["index"] for gpu in document(here.progress)["gpus"]] == [1]

    over(TWO, tmp_path, story)


def test_what_others_change_is_brought_back(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.order("all-balanced")
        await here.ended()
        here.node.configure("0=2g.12gb*2", only_named=True)
        here.writer.rescan()
        async with asyncio.timeout(60):
            while devices(here.node)[0] != AFTER:
                await here.executor.rounds.wait()
        assert (await here.ended()).state is State.SUCCESS

    over(TWO, tmp_path, story)


# ---- who uses what


def test_while_kubelet_does_not_answer_nothing_is_free(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.answers = False
        here.order("all-balanced")
        progress = await here.settled()
        assert progress.state is State.WAITING
        assert progress.trouble is not None
        assert progress.trouble.code is Code.HOLDERS_UNKNOWN
        assert here.worker.changes == 0
        here.answers = True
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [AFTER] * 2

    over(TWO, tmp_path, story)


def test_what_was_handed_out_a_moment_ago_is_in_use(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        given = uuids(here.node, 0)
        here.handed_out = set(given)
        here.order("all-2g.12gb")
        await here.settled()
        assert here.states() == [GpuState.WAITING, GpuState.APPLIED]
        assert uuids(here.node, 0) == given
        here.handed_out.clear()
        assert (await here.ended()).state is State.SUCCESS

    over(TWO, tmp_path, story)


def test_a_pod_that_gets_a_device_at_the_last_moment_keeps_it(tmp_path: Path) -> None:
    """Its Allocate was answered before the device left service; kubelet lists it after that."""

    async def story(here: Rig) -> None:
        got = uuids(here.node, 0)[0]
        asked = here.ask
        rounds = 0

        async def ask() -> object:
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                here.hold("late", got)
            return await asked()

        here.ask = ask  # type: ignore[method-assign, assignment]
        here.order("all-4g.24gb")
        await here.settled()
        assert here.states() == [GpuState.WAITING, GpuState.APPLIED]
        assert got in uuids(here.node, 0)
        assert devices(here.node)[0] == {"1g.6gb": 4}

    over(TWO, tmp_path, story)


def test_kubelet_must_have_the_list(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        takes = False

        async def tell(_: int) -> bool:
            return takes

        here.tell = tell  # type: ignore[method-assign, assignment]
        here.order("all-balanced")
        progress = await here.settled()
        assert progress.trouble is not None
        assert progress.trouble.code is Code.KUBELET_NOT_TOLD
        assert here.worker.changes == 0
        takes = True
        assert (await here.ended()).state is State.SUCCESS

    over(TWO, tmp_path, story)


def test_a_process_that_nobody_sees_rolls_back_and_waits(tmp_path: Path) -> None:
    """The driver names only processes of our own PID namespace, and refuses all the same."""

    async def story(here: Rig) -> None:
        hidden = uuids(here.node, 0)[2]
        here.node.use(hidden, 77, work=Work.WATCH)
        here.order("all-4g.24gb")
        progress = await here.settled()
        assert progress.gpus[0].state is GpuState.WAITING
        assert progress.gpus[0].trouble is not None
        assert progress.gpus[0].trouble.code is Code.IN_USE
        assert devices(here.node) == [{"1g.6gb": 4}, {"4g.24gb": 1}]
        assert hidden in uuids(here.node, 0)
        assert here.healthy() == {"4g.24gb": 1}
        here.node.release(hidden)
        assert (await here.ended()).state is State.SUCCESS
        assert devices(here.node) == [{"4g.24gb": 1}] * 2

    over(TWO, tmp_path, story)


class Evicts:
    """Ends the pods at once."""

    def __init__(self) -> None:
        self.pods: list[str] = []
        self.rig: Rig | None = None

    async def evict(self, pods: Collection[str]) -> str:
        self.pods += pods
        assert self.rig is not None
        for pod in pods:
            self.rig.held.pop(pod.removeprefix("ml/"))
        return ""


def test_only_pods_in_the_way_are_evicted(tmp_path: Path) -> None:
    async def main() -> None:
        evictor = Evicts()
        async with rig(TWO, tmp_path, evictor=evictor) as here:
            evictor.rig = here
            first = uuids(here.node, 0)
            for number in (0, 2, 3):
                here.hold(f"p{number}", first[number])
            here.order("all-balanced", Policy.EVICT)
            assert (await here.ended()).state is State.SUCCESS
            assert len(evictor.pods) == 1
            assert sum(uuid in uuids(here.node, 0) for uuid in first) == 2

    run(main())


def test_without_an_evictor_it_waits_and_says_why(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.hold("train", *uuids(here.node, 0))
        here.order("all-2g.12gb", Policy.EVICT)
        progress = await here.settled()
        assert progress.state is State.WAITING
        assert progress.notes == (
            "pods cannot be evicted here: there is no access to the API server",
        )

    over(TWO, tmp_path, story)


# ---- MIG mode


def test_mig_mode_is_switched_at_once_on_hopper(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        assert here.healthy() == {"nvidia.com/gpu": 2}
        here.hold("whole", here.node.gpu(1).uuid)
        here.order("all-1g.10gb")
        progress = await here.settled()
        assert here.states() == [GpuState.APPLIED, GpuState.WAITING]
        assert [str(each.holders[0]) for each in progress.gpus[1].blockers] == ["ml/whole"]
        assert here.healthy() == {"1g.10gb": 7}
        here.held.clear()
        assert (await here.ended()).state is State.SUCCESS
        assert here.healthy() == {"1g.10gb": 14}
        here.order("all-disabled")
        assert (await here.ended()).state is State.SUCCESS
        assert here.healthy() == {"nvidia.com/gpu": 2}

    over("2xh100-80gb:mig-off", tmp_path, story)


def test_a_monitoring_agent_keeps_mig_mode(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.node.use(here.node.gpu(0).uuid, 5, work=Work.WATCH)
        here.order("all-1g.10gb")
        progress = await here.settled()
        assert progress.gpus[0].state is GpuState.WAITING
        assert progress.gpus[0].trouble is not None
        assert "monitoring agents" in progress.gpus[0].trouble.text
        here.node.release(here.node.gpu(0).uuid)
        assert (await here.ended()).state is State.SUCCESS

    over("1xh100-80gb:mig-off", tmp_path, story)


def test_a_mode_that_the_administrator_switches(tmp_path: Path) -> None:
    async def main() -> None:
        settings = replace(SETTINGS, partition_mig_mode=False)
        async with rig("2xa30-24gb:mig-off", tmp_path, settings=settings) as here:
            here.order("all-1g.6gb")
            progress = await here.ended()
            assert progress.state is State.RESET_NEEDED
            assert here.states() == [GpuState.RESET_NEEDED] * 2
            assert progress.gpus[1].trouble is not None
            assert "run nvidia-smi -i 1 -mig 1, then nvidia" in progress.gpus[1].trouble.text
            assert here.healthy() == {}
            await asyncio.sleep(1000)
            assert here.worker.changes == 0
            # The driver resets no GPU of this virtual machine.
            here.node.set_mig_mode(1, on=True)
            here.writer.rescan()
            await asyncio.sleep(60)
            assert here.progress.gpus[1].trouble is not None
            assert here.progress.gpus[1].trouble.text.endswith("waits for a GPU reset or a reboot")
            here.node.reset(1)
            here.writer.rescan()
            await asyncio.sleep(60)
            assert here.states() == [GpuState.RESET_NEEDED, GpuState.APPLIED]
            assert devices(here.node) == [{}, {"1g.6gb": 4}]
            assert not here.node.gpu(0).mig_pending
            # The option may change while the daemon runs.
            here.writer.reconfigure(replace(settings, partition_mig_mode=True))
            await asyncio.sleep(60)
            assert here.node.gpu(0).mig_pending

    run(main())


def test_a_switch_that_needs_a_reset_waits_for_it_without_a_loop(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        here.order("all-1g.6gb")
        progress = await here.ended()
        assert progress.state is State.RESET_NEEDED
        assert here.states() == [GpuState.RESET_NEEDED] * 2
        assert here.healthy() == {}
        changes = here.worker.changes
        await asyncio.sleep(1000)
        assert here.worker.changes == changes == 2
        for gpu in range(2):
            here.node.reset(gpu)
        here.writer.rescan()
        async with asyncio.timeout(60):
            while devices(here.node) != [{"1g.6gb": 4}] * 2:
                await here.executor.rounds.wait()
        assert (await here.ended()).state is State.SUCCESS
        assert here.healthy() == {"1g.6gb": 8}

    over("2xa30-24gb:mig-off", tmp_path, story)


# ---- GPUs and the driver


@pytest.mark.parametrize("step", range(1, 7))
def test_a_gpu_is_lost_in_the_middle(tmp_path: Path, step: int) -> None:
    async def story(here: Rig) -> None:
        def lose(number: int) -> None:
            if number == step:
                here.node.lose(0)

        here.worker.after = lose
        here.order("all-balanced")
        await here.settled()
        assert here.states()[1] is GpuState.APPLIED
        assert devices(here.node)[1] == AFTER
        if step < 6:
            assert here.states()[0] in {GpuState.FAILED, GpuState.REFUSED}
            assert here.progress.state is State.FAILED
        here.node.restore(0)
        here.writer.rescan()
        async with asyncio.timeout(60):
            while here.progress.state is not State.SUCCESS:
                await here.executor.rounds.wait()
        assert devices(here.node) == [AFTER] * 2
        assert empty_instances(here.node) == 0
        assert here.healthy() == {"1g.6gb": 4, "2g.12gb": 2}

    over(TWO, tmp_path, story)


# ---- the disk


def test_nothing_is_changed_that_is_not_on_disk(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        (tmp_path / MEMORY).mkdir()
        here.order("all-balanced")
        progress = await here.settled()
        assert progress.trouble is not None
        assert progress.trouble.code is Code.NOT_SAVED
        assert here.worker.changes == 0
        (tmp_path / MEMORY).rmdir()
        assert (await here.ended()).state is State.SUCCESS

    over(TWO, tmp_path, story)


def test_one_process_partitions(tmp_path: Path) -> None:
    async def story(here: Rig) -> None:
        await here.keeper.release()
        other = Keeper(MemoryFile(tmp_path / MEMORY))
        assert await other.claim() is None
        here.order("all-balanced")
        progress = await here.settled()
        assert progress.trouble is not None
        assert progress.trouble.code is Code.BUSY
        assert here.worker.changes == 0
        await other.release()
        assert (await here.ended()).state is State.SUCCESS

    over(TWO, tmp_path, story)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    mine = Configuration(
        "mine", (Entry(Wanted.of({"1c.2g.12gb": 2}), (1,), frozenset({0x20B710DE})),)
    )
    memory = Memory(
        Order("mine", Source.COMMAND, mine, Policy.FORCE),
        "all-balanced",
        {
            "GPU-1": Before(Wanted.of({"1g.6gb": 4}), frozenset({"MIG-1", "MIG-2"})),
            "GPU-2": Before(Wanted(mig=False)),
            "GPU-3": Before(None, frozenset({"MIG-3"})),
        },
        Labelled("nvidia.com/mig.config", "all-balanced", refused=True),
        {"GPU-1": Place(0, "0000:07:00.0"), "GPU-2": Place(2)},
    )
    file = MemoryFile(tmp_path / "deep" / MEMORY)
    file.save(memory)
    assert MemoryFile(tmp_path / "deep" / MEMORY).load() == memory


GOOD: dict[str, object] = {"version": 1, "order": None, "insteadOf": "", "changing": {}}


def changing(count: str) -> str:
    """A file in which a GPU had so many devices."""
    before = {"geometry": {"mig": True, "devices": {"1g.6gb": "COUNT"}}, "uuids": []}
    return json.dumps({**GOOD, "changing": {"GPU-1": before}}).replace('"COUNT"', count)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**GOOD, "version": 2}),
        json.dumps({**GOOD, "order": {"name": 5}}),
        json.dumps({**GOOD, "changing": {"GPU-1": 3}}),
        json.dumps({**GOOD, "changing": [1]}),
        json.dumps({**GOOD, "label": {"key": "k", "value": 1, "refused": False}}),
        *map(changing, ('"x"', "1e999", "-1", "1.5", "true", "100000000", "9" * 5000)),
        json.dumps({**GOOD, "gpus": {"GPU-1": {"index": True, "pci_bus_id": ""}}}),
        json.dumps({**GOOD, "gpus": ["GPU-1"]}),
        "[" * 5000,
        "x" * 2_000_000,
    ],
)
def test_a_corrupt_file_is_said_and_not_fatal(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / MEMORY).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert MemoryFile(tmp_path / MEMORY).load() is None
    assert len(caplog.records) == 1


# ---- a driver that hangs


@pytest.mark.asyncio
async def test_the_driver_hangs_in_a_create(tmp_path: Path) -> None:
    """The GPU is left alone until the call returns; then it is finished."""
    node = parse_node(TWO)
    create = "nvmlDeviceCreateGpuInstanceWithPlacement"
    node.calls.inject(create, Hang(), times=1, target=node.gpu(0).uuid)
    worker: list[DriverWorker] = []

    def threads(hangs: object) -> DriverWorker:
        made = DriverWorker(hangs, Deadlines(gpu=0.3, driver=0.3, change=0.3))  # type: ignore[arg-type]
        made.start()
        worker.append(made)
        return made

    async with rig(node, tmp_path, threads=threads) as here:
        here.order("all-balanced")
        await here.settled(20)
        assert here.states()[1] is GpuState.APPLIED
        assert here.states()[0] in {GpuState.FAILED, GpuState.REFUSED}
        assert devices(node)[1] == AFTER
        node.calls.restore()
        async with asyncio.timeout(20):
            while devices(node)[0] != AFTER or here.progress.state is not State.SUCCESS:
                await here.executor.rounds.wait()
        assert empty_instances(node) == 0
        assert here.healthy() == {"1g.6gb": 4, "2g.12gb": 2}
