"""Faults reach exactly the devices they concern, and heal only by the rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin.core.settings import HealthChecks, MigStrategy, Settings, SharedResource, Sharing
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.faults import Aspect

from .harness import NEVER, ONE_SLICE, live

NODE = "p4d.24xlarge:all-1g.5gb"

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("strategy", [MigStrategy.MIXED, MigStrategy.SINGLE])
async def test_a_fault_of_a_device_takes_out_that_one(
    node_dir: Path, strategy: MigStrategy
) -> None:
    async with live(node_dir, NODE, Settings(mig_strategy=strategy, quiet_seconds=NEVER)) as plugin:
        slots = [(gpu.index, slot) for gpu in plugin.hardware.gpus for slot in gpu.devices()]
        assert len(slots) == 56
        for index, slot in slots:
            plugin.hardware.xid(index, 109, slot.gi.id, slot.ci.id)
            uuid = slot.ci.uuid
            await plugin.becomes(lambda uuid=uuid: plugin.unhealthy() == {uuid})  # type: ignore[misc]
            plugin.node.clear(uuid)
            await plugin.becomes(lambda: plugin.unhealthy() == set())


async def test_a_fault_of_a_gpu_instance_takes_out_its_compute_instances(node_dir: Path) -> None:
    async with live(node_dir, "1xa100-40gb:0=1c.3g.20gb*3,2g.10gb") as plugin:
        slots = list(plugin.hardware.gpu(0).devices())
        shared = [slot for slot in slots if slot.ci.slices == 1]
        plugin.hardware.xid(0, 95, shared[0].gi.id)
        await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid for slot in shared})


async def test_a_fault_of_a_gpu_takes_out_its_seven(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.fault(3, 79)
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(3).devices()}
        await plugin.becomes(lambda: plugin.unhealthy() == seven)


async def test_replicas_fall_with_their_device(node_dir: Path) -> None:
    sharing = Sharing((SharedResource(ONE_SLICE, 4),))
    settings = Settings(mig_strategy=MigStrategy.MIXED, quiet_seconds=NEVER, sharing=sharing)
    async with live(node_dir, NODE, settings) as plugin:
        slot = next(plugin.hardware.gpu(0).devices())
        plugin.hardware.xid(0, 95, slot.gi.id, slot.ci.id)
        await plugin.becomes(
            lambda: plugin.unhealthy() == {f"{slot.ci.uuid}::{n}" for n in range(4)}
        )


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 94])
async def test_harmless_faults_are_counted(node_dir: Path, xid: int) -> None:
    async with live(node_dir, NODE) as plugin:
        slot = next(plugin.hardware.gpu(2).devices())
        plugin.hardware.xid(2, xid, slot.gi.id, slot.ci.id)
        plugin.hardware.xid(2, xid)
        await plugin.settled()
        ledger = plugin.node.store.snapshot.ledger
        assert ledger[slot.ci.uuid].xids == ledger[plugin.hardware.gpu(2).uuid].xids == {xid: 1}
        assert plugin.unhealthy() == set()


@pytest.mark.parametrize("xid", [48, 64, 79, 95, 109, 119, 12345])
async def test_fatal_faults_take_out(node_dir: Path, xid: int) -> None:
    async with live(node_dir, NODE) as plugin:
        slot = next(plugin.hardware.gpu(2).devices())
        plugin.hardware.xid(2, xid, slot.gi.id, slot.ci.id)
        await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid})


@pytest.mark.parametrize("xid", [144, 149, 150])
async def test_the_recovery_action_decides_about_nvlink_where_there_is_one(
    node_dir: Path, xid: int
) -> None:
    async with live(node_dir, NODE) as plugin:
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(2).devices()}
        plugin.hardware.xid(2, xid)
        await plugin.settled()
        assert plugin.unhealthy() == set()
        plugin.hardware.xid(2, xid)
        plugin.hardware.set_recovery_action(2, 1)
        await plugin.becomes(lambda: plugin.unhealthy() == seven)
        await plugin.settled()
        ledger = plugin.node.store.snapshot.ledger[plugin.hardware.gpu(2).uuid]
        assert [reason.code for reason in ledger.reasons] == ["recovery-action"]
        assert ledger.xids == {xid: 2}


async def test_the_catalogue_decides_about_nvlink_where_there_is_none(node_dir: Path) -> None:
    hardware = parse_node(NODE)
    hardware.calls.inject("nvmlDeviceGetFieldValues", Fail(Code.NOT_SUPPORTED))
    async with live(node_dir, hardware) as plugin:
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(2).devices()}
        plugin.hardware.xid(2, 144)
        await plugin.becomes(lambda: plugin.unhealthy() == seven)
        ledger = plugin.node.store.snapshot.ledger[plugin.hardware.gpu(2).uuid]
        assert [reason.code for reason in ledger.reasons] == ["xid-144"]
        assert ledger.xids == {144: 1}


@pytest.mark.parametrize("xid", [13, 45])
async def test_a_program_that_crashes_is_no_reason(node_dir: Path, xid: int) -> None:
    async with live(node_dir, NODE) as plugin:
        slot = next(plugin.hardware.gpu(0).devices())
        for _ in range(12):
            plugin.hardware.xid(0, xid, slot.gi.id, slot.ci.id)
        await plugin.settled()
        assert plugin.node.store.snapshot.ledger[slot.ci.uuid].xids == {xid: 12}
        assert plugin.unhealthy() == set()


async def test_an_escalation_ends_without_a_recovery_action_too(node_dir: Path) -> None:
    settings = Settings(
        mig_strategy=MigStrategy.MIXED, quiet_seconds=0.2, probe_seconds=0.1, escalate_count=1
    )
    hardware = parse_node(NODE)
    hardware.calls.inject("nvmlDeviceGetFieldValues", Fail(Code.NOT_SUPPORTED))
    async with live(node_dir, hardware, settings) as plugin:
        slot = next(plugin.hardware.gpu(0).devices())
        plugin.hardware.xid(0, 13, slot.gi.id, slot.ci.id)
        await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid})
        await plugin.becomes(lambda: plugin.unhealthy() == set())


async def test_double_bit_ecc_counts_as_xid_48(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.ecc(5, double_bit=True)
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(5).devices()}
        await plugin.becomes(lambda: plugin.unhealthy() == seven)


async def test_xid_154_means_what_the_recovery_action_says(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.xid(1, 154)
        await plugin.settled()
        assert plugin.unhealthy() == set()
        plugin.hardware.set_recovery_action(1, 1)
        plugin.hardware.xid(1, 154)
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(1).devices()}
        await plugin.becomes(lambda: plugin.unhealthy() == seven)


async def test_remap_failure_is_found_by_probing(node_dir: Path) -> None:
    async with live(
        node_dir, NODE, Settings(mig_strategy=MigStrategy.MIXED, probe_seconds=0.1)
    ) as plugin:
        plugin.hardware.set_wear(4, remap_failure=True)
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(4).devices()}
        await plugin.becomes(lambda: plugin.unhealthy() == seven)


async def test_a_lost_gpu_is_isolated_and_comes_back(node_dir: Path) -> None:
    settings = Settings(mig_strategy=MigStrategy.MIXED, quiet_seconds=0.1, probe_seconds=0.1)
    async with live(node_dir, NODE, settings) as plugin:
        seven = {slot.ci.uuid for slot in plugin.hardware.gpu(6).devices()}
        plugin.hardware.lose(6)
        await plugin.becomes(lambda: plugin.unhealthy() == seven)
        # The others are watched on, without it.
        slot = next(plugin.hardware.gpu(0).devices())
        await plugin.node.watched()
        plugin.hardware.set_recovery_action(0, 1)
        await plugin.becomes(lambda: slot.ci.uuid in plugin.unhealthy())
        plugin.hardware.restore(6)
        await plugin.becomes(lambda: not seven & plugin.unhealthy())


async def test_watching_that_cannot_start_takes_the_gpu_out_until_it_can(node_dir: Path) -> None:
    settings = Settings(mig_strategy=MigStrategy.MIXED, probe_seconds=0.1)
    async with live(node_dir, NODE, settings) as plugin:
        gpu = plugin.hardware.gpu(0)
        plugin.hardware.faults.fail(gpu.uuid, Aspect.EVENTS, Code.UNKNOWN)
        plugin.hardware.lose(7)  # makes the event source be made anew, which fails for GPU 0 now
        await plugin.becomes(lambda: {slot.ci.uuid for slot in gpu.devices()} <= plugin.unhealthy())
        (reason,) = {
            r.text
            for item in plugin.node.store.snapshot.advertisement.resources[ONE_SLICE]
            if item.device.uuid in {slot.ci.uuid for slot in gpu.devices()}
            for r in item.reasons
        }
        assert "events" in reason


async def test_one_update_while_waiting_for_events_keeps_failing(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        before = len(plugin.kubelet.messages)
        plugin.hardware.faults.set_available(available=False)
        plugin.hardware.lose(0)
        plugin.node.rescan()
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 56)
        await plugin.settled()
        assert (
            len(plugin.kubelet.messages) - before <= 2
        )  # the lost GPU, then all that the driver cannot answer for


async def test_recovery_after_a_reset_and_none_without(node_dir: Path) -> None:
    settings = Settings(mig_strategy=MigStrategy.MIXED, quiet_seconds=0.2, probe_seconds=0.1)
    async with live(node_dir, NODE, settings) as plugin:
        plugin.hardware.fault(3, 95)
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 7)
        last = plugin.node.store.snapshot.ledger[plugin.hardware.gpu(3).uuid].reasons[0].last
        assert last is not None
        quiet_over = last + 0.6
        while plugin.node.now() < quiet_over:
            await plugin.settled()
        assert len(plugin.unhealthy()) == 7
        plugin.hardware.reset(3)
        plugin.hardware.set_geometry(3, ["1g.5gb"] * 7)
        await plugin.becomes(lambda: plugin.unhealthy() == set() and len(plugin.healthy()) == 56)


async def test_a_single_device_heals_by_itself(node_dir: Path) -> None:
    settings = Settings(mig_strategy=MigStrategy.MIXED, quiet_seconds=0.2, probe_seconds=0.1)
    async with live(node_dir, NODE, settings) as plugin:
        slot = next(plugin.hardware.gpu(0).devices())
        for flap in range(3):
            plugin.hardware.xid(0, 109, slot.gi.id, slot.ci.id)
            await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid})
            await plugin.becomes(lambda: plugin.unhealthy() == set())
            assert plugin.node.store.snapshot.ledger[slot.ci.uuid].flaps == flap


async def test_a_storm_is_counted_and_told_at_once(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        slots = list(plugin.hardware.gpu(0).devices())
        before = plugin.node.store.snapshot.generation
        for number in range(5000):
            slot = slots[number % 7]
            plugin.hardware.xid(0, 43, slot.gi.id, slot.ci.id)
        plugin.hardware.xid(1, 95)
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 7)
        counted = sum(entry.xids.get(43, 0) for entry in plugin.node.store.snapshot.ledger.values())
        assert counted == 5000
        assert plugin.node.store.snapshot.generation - before < 500


async def test_clearing_what_is_still_broken_never_shows_it_healthy(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        plugin.hardware.fault(3, 95)
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 7)
        await plugin.settled()
        before = len(plugin.kubelet.messages)
        plugin.node.clear(plugin.hardware.gpu(3).uuid)
        await plugin.settled()
        assert len(plugin.kubelet.messages) == before
        reasons = plugin.node.store.snapshot.ledger[plugin.hardware.gpu(3).uuid].reasons
        assert [reason.code for reason in reasons] == ["recovery-action"]


@pytest.mark.parametrize(
    "content", [b"{not json", b"[" * 100_000, b"\xff"], ids=["cut", "nested", "binary"]
)
async def test_a_corrupt_ledger_is_set_aside(node_dir: Path, content: bytes) -> None:
    (node_dir / "ledger.json").write_bytes(content)
    async with live(node_dir, NODE) as plugin:
        assert (node_dir / "ledger.json.corrupt").read_bytes() == content
        plugin.hardware.fault(0, 79)
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 7)
    assert json.loads((node_dir / "ledger.json").read_text())


async def test_the_verdict_survives_a_restart(node_dir: Path) -> None:
    async with live(node_dir, NODE) as plugin:
        slot = next(plugin.hardware.gpu(0).devices())
        plugin.hardware.xid(0, 109, slot.gi.id, slot.ci.id)
        await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid})
    async with live(node_dir, NODE) as plugin:
        await plugin.becomes(lambda: plugin.unhealthy() == {slot.ci.uuid})


async def test_disabled_checks_watch_nothing(node_dir: Path) -> None:
    settings = Settings(
        mig_strategy=MigStrategy.MIXED, disable_healthchecks=HealthChecks(numbers=frozenset({79}))
    )
    async with live(node_dir, NODE, settings) as plugin:
        slot = next(plugin.hardware.gpu(0).devices())
        plugin.hardware.xid(0, 79, slot.gi.id, slot.ci.id)
        await plugin.settled()
        assert plugin.unhealthy() == set()
        assert plugin.node.store.snapshot.ledger[slot.ci.uuid].xids == {79: 1}
