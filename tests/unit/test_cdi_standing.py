"""What is on disk decides which devices are healthy, and a snapshot waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import state as steps
from plugin.core.cdi.specification import Entry, entries
from plugin.core.cdi.standing import Specified, is_current
from plugin.core.inventory.model import Inventory
from plugin.core.reasons import Scope
from plugin.core.scans import scan_ended
from plugin.core.settings import CdiVendor, DeviceListStrategy, Settings
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.driver.worker import DriverWorker
from plugin.loops.backoff import Backoff
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.pulse import Pulse
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.sim.verbs import perform
from plugin.state.gate import Gate
from plugin.state.ledger_file import LedgerFile
from plugin.state.specifying import specify_when_needed
from plugin.state.writer import Writer

from .builders import gpu, mig_device, mig_gpu, node
from .state_steps import down

BY_CDI = Settings(device_list_strategy=(DeviceListStrategy.CDI_CRI,))
NODE = node(mig_gpu(0, "1g.5gb", "1g.5gb"), gpu(1))
A, B = "MIG-0-7-0", "MIG-0-8-0"
MIG, GPU = "nvidia.com/mig", "nvidia.com/gpu"
WHOLE = entries(NODE, BY_CDI)
ELSEWHERE = replace(WHOLE[A], nodes=("/dev/nvidia7",))


@pytest.mark.parametrize(
    ("specified", "unhealthy"),
    [
        pytest.param(Specified(WHOLE), set(), id="all there"),
        pytest.param(Specified(), {A, B, "GPU-1"}, id="nothing there"),
        pytest.param(Specified({A: WHOLE[A]}), {B, "GPU-1"}, id="one there"),
        pytest.param(Specified({**WHOLE, A: ELSEWHERE}), {A}, id="other nodes"),
        pytest.param(Specified(WHOLE, {MIG: "no room"}), {A, B}, id="a kind that failed"),
    ],
)
def test_a_device_that_is_not_on_disk_as_it_is_is_unhealthy(
    specified: Specified, unhealthy: set[str]
) -> None:
    state = scan_ended(steps.initial(BY_CDI, 0.0), NODE, 1.0, specified).state
    assert down(state) == dict.fromkeys(unhealthy, ("unspecified",))
    assert is_current(specified, NODE, BY_CDI) is not bool(unhealthy)
    without = steps.configured(state, Settings()).state
    assert down(without) == {}
    assert is_current(specified, NODE, Settings()) is not bool(specified.errors)


def test_a_failure_is_a_problem_of_the_node_and_heals() -> None:
    failed = Specified(errors={MIG: "no room", GPU: "no room"})
    state = scan_ended(steps.initial(BY_CDI, 0.0), NODE, 1.0, failed).state
    listed = state.snapshot.advertisement.resources["nvidia.com/gpu"]
    assert [(reason.text, reason.scope) for reason in listed[0].reasons] == [
        ("no room", Scope.NODE)
    ]
    assert document(state.snapshot, "scan")["problems"] == ["no room"]
    healed = steps.specified(state, Specified(WHOLE)).state
    assert down(healed) == {}
    assert steps.specified(healed, Specified(dict(WHOLE))).state is healed


def test_a_device_without_its_nodes_has_one_reason() -> None:
    missing = mig_device(0, 0, missing_device_nodes=("/dev/nvidia-caps/nvidia-cap63",))
    unknown = mig_device(0, 2, device_nodes=())
    inventory = node(gpu(0, missing, unknown))
    state = scan_ended(
        steps.initial(BY_CDI, 0.0), inventory, 1.0, Specified(entries(inventory, BY_CDI))
    ).state
    assert down(state) == {missing.uuid: ("missing-node",), unknown.uuid: ("unspecified",)}
    by_runtime = dataclasses.replace(BY_CDI, pass_device_specs=False)
    assert missing.uuid in down(steps.configured(state, by_runtime).state)


_SCANS = st.sampled_from(
    [
        NODE,
        node(mig_gpu(0, "1g.5gb"), gpu(1)),
        node(mig_gpu(0, "3g.20gb"), mig_gpu(1, "1g.5gb")),
        node(gpu(0), gpu(1)),
        node(gpu(0, mig_device(0, 0, index=1), mig_device(0, 2, missing_device_nodes=("/x",)))),
    ]
)
_SETTINGS = st.builds(
    dataclasses.replace,
    st.just(BY_CDI),
    cdi_vendor=st.sampled_from(CdiVendor),
    device_list_strategy=st.sampled_from(
        [(DeviceListStrategy.ENVVAR,), *((each,) for each in DeviceListStrategy if each.by_cdi)]
    ),
)
_FAILED = st.sampled_from([{}, {MIG: "no room"}, {GPU: "no room"}])
_STEPS = st.lists(
    st.tuples(st.just("scan"), _SCANS)
    | st.tuples(st.just("settings"), _SETTINGS)
    | st.tuples(st.just("written"), _FAILED),
    max_size=12,
)


@given(_STEPS)
def test_whatever_happens_a_healthy_device_is_on_disk(happened: list[tuple[str, Any]]) -> None:
    state = scan_ended(steps.initial(BY_CDI, 0.0), NODE, 0.0).state
    for now, (what, value) in enumerate(happened, 1):
        snapshot = state.snapshot
        if what == "scan":
            state = scan_ended(state, value, float(now)).state
        elif what == "settings":
            state = steps.configured(state, value).state
        else:
            wanted = entries(snapshot.inventory, snapshot.settings)
            done = {uuid: each for uuid, each in wanted.items() if each.kind not in value}
            state = steps.specified(state, Specified(done, value)).state
        snapshot = state.snapshot
        if snapshot.settings.by_cdi:
            wanted = entries(snapshot.inventory, snapshot.settings)
            for listed in snapshot.advertisement.resources.values():
                for item in listed:
                    if item.healthy:
                        uuid = item.device.uuid
                        assert snapshot.specified.entries[uuid] == wanted[uuid]
        if is_current(snapshot.specified, snapshot.inventory, snapshot.settings):
            assert not any("unspecified" in codes for codes in down(state).values())


# ---- the gate


@pytest.mark.asyncio
@pytest.mark.parametrize("settings", [BY_CDI, Settings()])
async def test_all_is_brought_up_to_date_with_a_scan_and_nothing_before_the_first(
    settings: Settings,
) -> None:
    asked: list[Inventory] = []

    async def specify(inventory: Inventory, given: Settings) -> Specified | None:
        assert given in {settings, BY_CDI}
        asked.append(inventory)
        return None

    gate, state = Gate(specify), steps.initial(settings, 0.0)
    assert await gate.specified(state.snapshot) is None
    assert asked == []
    scanned = scan_ended(state, NODE, 1.0).state.snapshot
    assert await gate.specified(scanned) == Specified()
    assert asked == [scanned.inventory]
    # Nothing is left: nothing is to be done before containers use CDI.
    assert gate.has_work(settings) is settings.by_cdi
    await gate.specified(scanned)
    await gate.specified(replace(scanned, settings=BY_CDI))
    assert len(asked) == 2 + settings.by_cdi


@dataclass
class Disk:
    """A CDI directory that may fail; ``written`` is what is in it."""

    written: Mapping[str, Entry] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # ids that were listed as not specified
    error: str = ""
    attempts: int = 0
    attempted: Pulse = field(default_factory=Pulse)

    async def specify(self, inventory: Inventory, settings: Settings) -> Specified:
        if not settings.by_cdi:
            return Specified(errors=MappingProxyType({MIG: self.error} if self.error else {}))
        self.attempts += 1
        self.attempted.fire()
        wanted = entries(inventory, settings)
        await asyncio.sleep(0)
        if self.error:
            return Specified(errors={entry.kind: self.error for entry in wanted.values()})
        self.written = wanted
        return Specified(MappingProxyType(dict(wanted)))

    def check(self, snapshot: Snapshot) -> None:
        """Nobody may see a device as healthy that is not on disk."""
        unhealthy = down(steps.State(snapshot))
        self.seen |= {uuid for uuid, codes in unhealthy.items() if "unspecified" in codes}
        if not snapshot.settings.by_cdi:
            return
        wanted = entries(snapshot.inventory, snapshot.settings)
        for listed in snapshot.advertisement.resources.values():
            for item in listed:
                if item.healthy:
                    assert self.written[item.device.uuid] == wanted[item.device.uuid]


@dataclass
class Running:
    disk: Disk
    hardware: SimNode
    writer: Writer

    @property
    def snapshot(self) -> Snapshot:
        return self.writer.store.snapshot

    def unhealthy(self) -> dict[str, Any]:
        return down(steps.State(self.snapshot))

    async def becomes(self, *, healthy: bool) -> None:
        async with asyncio.timeout(10):
            while bool(self.unhealthy()) is healthy:
                await self.writer.store.newer_than(self.snapshot.generation)


@contextlib.asynccontextmanager
async def running(
    folder: Path, settings: Settings = BY_CDI, error: str = ""
) -> AsyncIterator[Running]:
    disk = Disk(error=error)
    hardware = parse_node("p4d.24xlarge:0=1g.5gb*2")
    driver = simulate(hardware).driver
    worker = DriverWorker(driver.hangs)
    worker.start()
    file = LedgerFile(folder / "ledger.json")
    writer = Writer(driver, worker, settings, file, specify=disk.specify)

    async def watch() -> None:
        async for snapshot in writer.store.follow():
            disk.check(snapshot)

    watching = asyncio.create_task(watch())
    await writer.start()
    quick = Backoff(0.001, 0.01, well=math.inf)
    tasks = [
        asyncio.create_task(writer.run(Heartbeats())),
        asyncio.create_task(specify_when_needed(writer, quick)),
    ]
    try:
        yield Running(disk, hardware, writer)
        assert [task for task in (*tasks, watching) if task.done()] == []
    finally:
        for task in (*tasks, watching):
            task.cancel()
        await asyncio.gather(*tasks, watching, return_exceptions=True)


@pytest.mark.asyncio
async def test_the_first_snapshot_comes_after_the_specification(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        assert live.disk.attempts == 1
        assert live.snapshot.generation == 1
        assert live.unhealthy() == {}
        assert len(live.disk.written) == 2 + 7


@pytest.mark.asyncio
async def test_new_devices_are_on_disk_before_anybody_sees_them(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        for geometry in ("0=1g.5gb*7", "0=3g.20gb*2;1=1g.5gb", "0=off;1=off"):
            before = live.snapshot.geometry
            perform(live.hardware, "repartition", [geometry])
            live.writer.rescan()
            async with asyncio.timeout(10):
                while live.snapshot.geometry == before or live.unhealthy():
                    await live.writer.store.newer_than(live.snapshot.generation)
            there = {device.uuid for device in live.snapshot.inventory.devices()}
            assert set(live.disk.written) <= there
        assert live.disk.seen == set()


@pytest.mark.asyncio
async def test_a_failure_is_retried_until_it_heals(tmp_path: Path) -> None:
    async with running(tmp_path, error="read-only file system") as live:
        assert set(live.unhealthy().values()) == {("unspecified",)}
        async with asyncio.timeout(10):
            while live.disk.attempts < 4:
                await live.disk.attempted.wait()
        assert live.snapshot.generation == 1
        live.disk.error = ""
        await live.becomes(healthy=True)


@pytest.mark.asyncio
async def test_what_is_left_of_a_time_with_cdi_is_retried_until_it_heals(tmp_path: Path) -> None:
    async with running(tmp_path, Settings(), error="read-only file system") as live:
        assert live.unhealthy() == {}
        assert document(live.snapshot, "scan")["problems"] == ["read-only file system"]
        live.disk.error = ""
        async with asyncio.timeout(10):
            while live.snapshot.specified.errors:
                await live.writer.store.newer_than(live.snapshot.generation)


@pytest.mark.asyncio
async def test_settings_that_come_while_running_are_written_for(tmp_path: Path) -> None:
    async with running(tmp_path, Settings()) as live:
        assert live.disk.attempts == 0
        assert live.unhealthy() == {}
        for vendor in CdiVendor:
            live.writer.reconfigure(dataclasses.replace(BY_CDI, cdi_vendor=vendor))
            await live.becomes(healthy=True)
            assert {entry.kind.partition("/")[0] for entry in live.disk.written.values()} == {
                vendor
            }
        attempts = live.disk.attempts
        live.writer.reconfigure(Settings())
        await live.writer.specify()
        assert live.disk.attempts == attempts


@pytest.mark.asyncio
async def test_settings_that_are_applied_take_nothing_out_of_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, Settings()) as live:
        by_cdi = [dataclasses.replace(BY_CDI, cdi_vendor=vendor) for vendor in CdiVendor]
        for settings in (*by_cdi, Settings(), *by_cdi):
            await live.writer.apply(settings)
            assert live.snapshot.settings == settings
            await asyncio.sleep(0)
        assert live.disk.attempts == 4
        assert live.disk.seen == set()
    assert [each for each in caplog.records if each.levelname == "WARNING"] == []
