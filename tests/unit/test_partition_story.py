"""Random lives of a node: orders, faults, kills and pods in any order. It always ends right."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pynvml
import pytest
from msgspec.structs import replace

from plugin.core.partition.comparison import differences
from plugin.core.partition.configuration import Configuration, Entry, Wanted, resolve
from plugin.core.partition.order import Order, Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.precedence import Command
from plugin.core.partition.progress import GpuState, State
from plugin.core.partition.usual import usual
from plugin.errors import PluginError
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.partition_rig import Killed, Rig, empty_instances, rig, uuids
from tests.partitioning import inventory, offers_of
from tests.unit.virtual_time import run

NODES = (
    "2xa30-24gb:all-1g.6gb",
    "2xa30-24gb:all-enabled",
    "2xa30-24gb:all-balanced",
    "2xa30-24gb:mig-off",
    "2xh100-80gb:all-balanced",
    "2xh100-80gb:mig-off",
)
#: Each is asked while a GPU is changed.
FUNCTIONS = (
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceDestroy",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlDeviceSetMigMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetGpuInstances",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlGpuInstanceGetComputeInstances",
    "nvmlGpuInstanceGetInfo",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeRunningProcesses_v3",
)
CODES = (
    pynvml.NVML_ERROR_IN_USE,
    pynvml.NVML_ERROR_UNKNOWN,
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_NO_PERMISSION,
)
PAUSES = (0.0, 0.0, 0.01, 0.06, 0.2, 1.0, 5.0, 40.0)
#: States in which a GPU may be left half-made: nothing more can be done to it, and that is said.
STUCK = {GpuState.FAILED, GpuState.RESET_NEEDED}


@dataclass
class Story:
    """``forced``: what is in use may have been destroyed. ``told`` is for readers of a failure."""

    node: SimNode
    folder: Path
    dice: random.Random
    held: dict[str, set[str]] = field(default_factory=dict)
    forced: bool = False
    told: list[object] = field(default_factory=list)

    async def all(self) -> None:
        for _ in range(self.dice.randrange(1, 4)):
            await self.life()
        await self.end()

    async def life(self) -> None:
        """One process, which may be killed."""
        async with rig(self.node, self.folder) as here:
            here.held = self.held
            kill_at = self.dice.choice([0, *range(1, 13)])
            before = self.dice.random() < 0.5

            def disturb(number: int, *, kills: bool) -> None:
                self.check()
                if number == kill_at and kills:
                    raise Killed
                if self.dice.random() < 0.12:
                    here.executor.want(self.order())

            here.worker.before = lambda number: disturb(number, kills=before)
            here.worker.after = lambda number: disturb(number, kills=not before)
            if here.keeper.memory.order is not None:
                here.executor.want(here.keeper.memory.order)
            assert here.working is not None
            for _ in range(self.dice.randrange(5, 20)):
                if here.working.done():
                    break
                await self.something(here)
                await asyncio.sleep(self.dice.choice(PAUSES))
                self.check()
            self.told.append("killed" if here.working.done() else "ended")

    async def something(self, here: Rig) -> None:
        happens: list[tuple[int, Callable[[], object]]] = [
            (6, lambda: here.executor.want(self.order())),
            (1, lambda: here.executor.want(None)),
            (5, lambda: self.pod(here)),
            (4, lambda: self.held.pop(self.dice.choice(sorted(self.held) or [""]), None)),
            (4, self.fault),
            (1, self.node.calls.restore),
            (1, lambda: self.node.lose(self.dice.randrange(2))),
            (2, self.found),
            (1, lambda: setattr(here, "answers", not here.answers)),
            (1, lambda: setattr(here.disk, "full", not here.disk.full)),
            (1, here.writer.rescan),
        ]
        weights = [weight for weight, _ in happens]
        (chosen,) = self.dice.choices([each for _, each in happens], weights)
        order = here.executor.order
        chosen()
        if here.executor.order is not order and self.dice.random() < 0.7:
            await here.keeper.given(Command(here.executor.order, ""))

    def order(self) -> Order:
        name = self.dice.choice(sorted(usual(inventory(self.node), offers_of(self.node))))
        policies = [None, None, Policy.EVICT, Policy.REFUSE, Policy.REFUSE]
        policy = self.dice.choice([*policies, Policy.FORCE] if self.forced else policies)
        one = Configuration("one", (Entry(Wanted.of({}), (self.dice.randrange(2),)),))
        configuration = one if self.dice.random() < 0.25 else None
        self.told.append((name, configuration, policy))
        return Order(
            name if configuration is None else "one", Source.COMMAND, configuration, policy
        )

    def pod(self, here: Rig) -> None:
        """It gets one of the devices that are advertised."""
        taken = set().union(*self.held.values())
        free = sorted(uuid for uuid in self.devices() - taken if here.serves(uuid))
        if free:
            self.held[f"pod-{len(self.told)}"] = {self.dice.choice(free)}
            self.told.append(("pod", dict(self.held)))

    def fault(self) -> None:
        function, code = self.dice.choice(FUNCTIONS), self.dice.choice(CODES)
        times, after = self.dice.choice([None, 1, 1, 2, 4, 8]), self.dice.choice([0, 0, 1, 3])
        target = self.dice.choice([None, *(gpu.uuid for gpu in self.node.gpus)])
        self.told.append((function, code, times, after, target))
        self.node.calls.inject(function, Fail(code), times=times, after=after, target=target)

    def found(self) -> None:
        for gpu in range(2):
            with contextlib.suppress(PluginError, ValueError):
                self.node.restore(gpu)

    def devices(self) -> set[str]:
        return {uuid for gpu in range(2) for uuid in uuids(self.node, gpu)}

    def check(self) -> None:
        """Nothing in use was destroyed."""
        gone = set().union(*self.held.values()) - self.devices()
        assert self.forced or not gone, f"{gone} of {self.held}"

    async def end(self) -> None:
        """All comes to rest: first with the last order, then with the same one again."""
        self.node.calls.restore()
        self.found()
        async with rig(self.node, self.folder) as here:
            order = here.keeper.memory.order
            if order is None:
                await here.settled()
                assert here.progress.state is State.IDLE
                assert here.keeper.memory.changing == {}
                self.advertised(here)
                order = self.order()
            here.held = self.held
            if self.dice.random() < 0.5:  # one that may leave what is there
                order = replace(self.order(), policy=Policy.REFUSE)
                await self.interrupted(here, order)
            here.executor.want(order)
            await here.settled(20_000)
            self.check()
            self.held.clear()
            progress = await here.ended(20_000)
            if STUCK.isdisjoint(here.states()):
                self.whole(here)
            if progress.state is not State.SUCCESS:
                for gpu in range(2):
                    self.node.reset(gpu)
                here.writer.rescan()
                await asyncio.sleep(10)
                here.executor.want(Order(order.name, Source.COMMAND, order.configuration))
                if (await here.ended(20_000)).state is State.RESET_NEEDED:
                    for gpu in range(2):
                        self.node.reset(gpu)
                    here.writer.rescan()
                    await asyncio.sleep(10)
                progress = await here.ended(20_000)
            assert progress.state is State.SUCCESS, progress
            assert progress.trouble is None
            read = inventory(self.node)
            wanted = order.configuration or usual(read, offers_of(self.node))[order.name]
            assert differences(read, resolve(wanted, read)) == {}
            self.whole(here)

    async def interrupted(self, here: Rig, order: Order) -> None:
        """An order that comes in the middle of a change, and while a pod holds something."""
        at = self.dice.randrange(1, 7)

        def interrupt(number: int) -> None:
            if number == at:
                self.pod(here)
                here.executor.want(order)

        here.worker.after = interrupt
        here.executor.want(self.order())
        await here.settled(20_000)

    def whole(self, here: Rig) -> None:
        assert empty_instances(self.node) == 0
        assert here.keeper.memory.changing == {}
        self.advertised(here)

    def advertised(self, here: Rig) -> None:
        listed = here.writer.store.snapshot.advertisement.resources.values()
        healthy = {item.id for items in listed for item in items if item.healthy}
        assert {uuid for uuid in healthy if uuid.startswith("MIG-")} == self.devices()


#: The last ones leave a GPU half-made unless one that is held, or in an order's way, goes back.
SEEDS = (*range(20), 32, 56, 106)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_ends_right(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 — a story, no secret
    node = parse_node(NODES[seed % len(NODES)])
    story = Story(node, tmp_path, dice, forced=dice.random() < 0.2)
    try:
        run(story.all())
    except BaseException as error:
        error.add_note("\n".join(map(str, story.told)))
        raise
