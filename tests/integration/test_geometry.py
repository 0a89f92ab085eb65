"""Geometry that changes under the running plugin, and kubelets that restart under it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from plugin.core.advertise.advertisement import advertise
from plugin.core.inventory.model import Inventory, MigDevice
from plugin.core.settings import MigStrategy, Settings
from plugin.sim.kubelet.pods import Pod
from tests.simulated import truth

from .harness import NEVER, ONE_SLICE, Live, live

NODE = "p4d.24xlarge:all-1g.5gb"
SETTINGS = Settings(mig_strategy=MigStrategy.MIXED, quiet_seconds=NEVER, probe_seconds=0.2)
GEOMETRIES: tuple[list[str], ...] = (
    ["1g.5gb"] * 7,
    ["2g.10gb"] * 3,
    ["3g.20gb"] * 2,
    ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"],
    ["1g.5gb+me", "1g.10gb", "4g.20gb"],
    ["7g.40gb"],
    ["1c.3g.20gb"] * 3,
    [],
)

pytestmark = pytest.mark.asyncio


async def test_new_resources_come_and_old_ones_go(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.configure("all-balanced")
        wanted = {
            ONE_SLICE: (16, 16),
            "nvidia.com/mig-2g.10gb": (8, 8),
            "nvidia.com/mig-3g.20gb": (8, 8),
        }
        await plugin.becomes(lambda: plugin.kubelet.node_status() == wanted)
        plugin.hardware.configure("mig-off")
        gone = dict.fromkeys(wanted, (0, 0))
        await plugin.becomes(
            lambda: plugin.kubelet.node_status() == {"nvidia.com/gpu": (8, 8), **gone}
        )
        for resource in gone:
            assert [m for m in plugin.kubelet.messages if m.resource == resource][-1].devices == ()


async def test_neighbours_are_not_disturbed(node_dir: Path) -> None:
    async with live(node_dir, "p4d.24xlarge:0=1g.5gb*7;1=3g.20gb*2") as plugin:
        three = "nvidia.com/mig-3g.20gb"
        pod = await plugin.kubelet.admit(Pod("neighbour", containers={"main": {three: 1}}))
        before = [m for m in plugin.kubelet.messages if m.resource == three]
        plugin.hardware.set_geometry(0, ["2g.10gb"] * 3)
        await plugin.becomes(lambda: plugin.kubelet.allocatable("nvidia.com/mig-2g.10gb") == 3)
        await plugin.becomes(lambda: plugin.kubelet.allocatable(ONE_SLICE) == 0)
        assert [m for m in plugin.kubelet.messages if m.resource == three] == before
        assert [r.resource for r in plugin.kubelet.registrations].count(three) == 1
        assert pod.phase == "Running"
        assert set(pod.device_health.values()) <= {"Healthy"}


async def test_a_fault_right_after_a_change_reaches_the_new_device(node_dir: Path) -> None:
    """The new instance has the ids of the one that it replaces, and its fault comes before anybody
    has looked.
    """
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.set_geometry(0, ["1g.5gb"] * 7)
        slot = next(plugin.hardware.gpu(0).devices())
        plugin.hardware.xid(0, 95, slot.gi.id, slot.ci.id)
        await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid})


async def test_a_burst_becomes_few_messages(node_dir: Path) -> None:
    async with live(node_dir, "1xa100-40gb:0=1g.5gb*7") as plugin:
        before = len([m for m in plugin.kubelet.messages if m.resource == ONE_SLICE])
        for slot in list(plugin.hardware.gpu(0).devices()):
            plugin.hardware.destroy_ci(0, slot.gi.id, slot.ci.id)
            plugin.hardware.destroy_gi(0, slot.gi.id)
        for _ in range(6):
            plugin.hardware.create_ci(0, plugin.hardware.create_gi(0, "1g.5gb").id)
        await plugin.becomes(lambda: plugin.kubelet.allocatable(ONE_SLICE) == 6)
        assert len([m for m in plugin.kubelet.messages if m.resource == ONE_SLICE]) - before <= 2


async def test_a_pending_mode_switch_is_not_advertised(node_dir: Path) -> None:
    async with live(node_dir, "p4d.24xlarge") as plugin:
        plugin.hardware.set_mig_mode(0, on=True)  # Ampere: pending until a reset
        await plugin.becomes(lambda: plugin.kubelet.allocatable("nvidia.com/gpu") == 7)
        plugin.hardware.reset(0)
        plugin.hardware.set_geometry(0, ["7g.40gb"])
        await plugin.becomes(lambda: plugin.kubelet.allocatable("nvidia.com/mig-7g.40gb") == 1)


async def test_the_driver_goes_away_and_comes_back(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.faults.set_available(available=False)
        plugin.node.rescan()
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 56)
        plugin.hardware.faults.set_available(available=True)
        plugin.node.rescan()
        await plugin.becomes(lambda: len(plugin.healthy()) == 56)
        async with asyncio.timeout(10):
            await plugin.node.watched()
        plugin.hardware.fault(0, 79)
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 7)


@pytest.mark.timeout(180)
async def test_a_thousand_random_changes_leave_plugin_and_hardware_agreeing(node_dir: Path) -> None:
    dice = random.Random(20261122)  # noqa: S311 — a test wants the same numbers every time
    async with live(node_dir, NODE, SETTINGS) as plugin:
        model = _Model(plugin)
        done = 0
        while done < 1000:
            # Each GPU once: two changes of one in the same instant cannot be told apart by what
            # NVML says of them.
            for index in dice.sample(range(8), dice.randint(1, 8)):
                model.change(index, dice)
                done += 1
            await plugin.becomes(model.agrees)
            async with asyncio.timeout(10):
                await plugin.node.watched()


class _Model:
    """What should be so: which devices are listed, and which of them are down."""

    def __init__(self, plugin: Live) -> None:
        self._plugin = plugin
        self._hardware = plugin.hardware
        self._down: set[str] = set()
        self._lost: dict[int, set[str]] = {}

    def change(self, index: int, dice: random.Random) -> None:
        gpu = self._hardware.gpu(index)
        if index in self._lost:
            self._hardware.restore(index)
            self._down |= {gpu.uuid}
            del self._lost[index]
            return
        match dice.randrange(10):
            case 0 if len(self._lost) < 3:
                self._lost[index] = self._ids()[index]
                self._hardware.lose(index)
            case 1 | 2 | 3 | 4:
                slots = list(gpu.devices())
                if slots:
                    slot = dice.choice(slots)
                    xid = dice.choice([31, 43, 94, 95, 109, 999])
                    self._hardware.xid(index, xid, slot.gi.id, slot.ci.id)
                    if xid in {95, 109, 999}:
                        self._down.add(slot.ci.uuid)
            case 5:
                self._hardware.fault(index, 79)
                self._down.add(gpu.uuid)
            case _:
                if not gpu.mig:
                    return
                self._hardware.set_geometry(index, dice.choice(GEOMETRIES))

    def _ids(self) -> dict[int, set[str]]:
        """What the hardware has to offer, by GPU; a lost one offers nothing."""
        there = tuple(gpu for gpu in truth(self._hardware) if gpu.index not in self._lost)
        found = {gpu.index: set[str]() for gpu in there}
        for listed in advertise(Inventory(gpus=there), SETTINGS).resources.values():
            for item in listed:
                on = item.device.gpu_index if isinstance(item.device, MigDevice) else None
                found[item.device.index if on is None else on].add(item.id)
        return found

    def agrees(self) -> bool:
        wanted = {self._hardware.gpu(index).uuid: ids for index, ids in self._ids().items()}
        present = set().union(*wanted.values()) if wanted else set()
        down = {name for name in present if name in self._down}
        down |= set().union(*(ids for uuid, ids in wanted.items() if uuid in self._down))
        lost = set().union(*self._lost.values()) if self._lost else set()
        return self._plugin.healthy() == present - down and self._plugin.unhealthy() == down | lost


@pytest.mark.timeout(120)
async def test_kubelet_restarts_a_hundred_times(node_dir: Path) -> None:
    dice = random.Random(7)  # noqa: S311
    async with live(node_dir, "p4d.24xlarge:all-balanced") as plugin:
        everything = plugin.kubelet.node_status()
        for _ in range(100):
            await plugin.kubelet.restart()
            # At a random moment of registering again: none, one, two or three resources are back.
            target = dice.randrange(4)
            await plugin.becomes(
                lambda target=target: (
                    sum(n > 0 for _, n in plugin.kubelet.node_status().values()) >= target
                )  # type: ignore[misc]
            )
        await plugin.becomes(lambda: plugin.kubelet.node_status() == everything)
        assert [v for v in plugin.kubelet.violations if v.kind == "second-stream"] == []
        assert all(plugin.kubelet.live_streams(resource) == 1 for resource in everything)
