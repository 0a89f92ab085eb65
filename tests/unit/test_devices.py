"""``devices``: how each device found, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.commands.devices import show
from plugin.core.advertise.advertisement import advertise
from plugin.core.health.ledger import EMPTY, Entry, Ledger, cordon, verdicts
from plugin.core.inventory.model import Gpu, Inventory, MigDevice
from plugin.core.reasons import Clears, Code, Reason, Scope
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing
from plugin.core.state import Snapshot
from plugin.core.status import DeviceStatus, document, status
from plugin.errors import ConfigError

from .builders import gpu, mig_device, mig_gpu, node, snapshot

WHOLE = Settings(mig_strategy=MigStrategy.NONE)
MIXED = Settings(mig_strategy=MigStrategy.MIXED)
SINGLE = Settings(mig_strategy=MigStrategy.SINGLE)
ONE = "nvidia.com/mig-1g.5gb"
SICK = mig_device(0, 0, error="reading its memory: lost")
BLANK = mig_device(0, 0, "")


@pytest.mark.parametrize(
    ("inventory", "settings", "device", "expected"),
    [
        pytest.param(
            node(gpu(0)), MIXED, gpu(0), DeviceStatus("nvidia.com/gpu", "healthy"), id="a whole GPU"
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")), MIXED, mig_gpu(0, "1g.5gb"), None, id="a GPU of MIG devices"
        ),
        pytest.param(
            node(gpu(0, mig_device())),
            MIXED,
            mig_device(),
            DeviceStatus(ONE, "healthy"),
            id="a MIG device",
        ),
        pytest.param(
            node(gpu(0, SICK)),
            MIXED,
            SICK,
            DeviceStatus(ONE, "unhealthy", (Reason("unreadable", "reading its memory: lost"),)),
            id="unhealthy",
        ),
        pytest.param(
            node(gpu(0, mig_device())),
            dataclasses.replace(
                MIXED, sharing=Sharing((SharedResource(ONE, 3),), rename_by_default=True)
            ),
            mig_device(),
            DeviceStatus(f"{ONE}.shared", "healthy"),
            id="shared",
        ),
    ],
)
def test_status(
    inventory: Inventory, settings: Settings, device: Gpu | MigDevice, expected: DeviceStatus | None
) -> None:
    assert status(device, snapshot(inventory, settings)) == expected


@pytest.mark.parametrize(
    ("inventory", "settings", "device", "expected"),
    [
        (node(gpu(0, BLANK)), MIXED, BLANK, "no readable profile"),
        (node(gpu(0, mig=True)), MIXED, gpu(0), "no MIG devices"),
        (node(gpu(0), mig_gpu(1, "1g.5gb")), SINGLE, gpu(0), "MIG mode on, but it is off on GPU 0"),
        (
            node(gpu(0), mig_gpu(1, "1g.5gb")),
            SINGLE,
            mig_device(1),
            "MIG mode on, but it is off on GPU 0",
        ),
        (node(gpu(0, mig_device())), WHOLE, mig_device(), "--mig-strategy=none"),
    ],
)
def test_what_is_withheld_says_why(
    inventory: Inventory, settings: Settings, device: Gpu | MigDevice, expected: str
) -> None:
    found = status(device, snapshot(inventory, settings))
    assert found is not None
    assert (found.resource, found.health) == (None, "withheld")
    assert expected in found.reasons[0].text
    assert found.reasons[0].code == "withheld"


def held(inventory: Inventory, ledger: Ledger, settings: Settings = MIXED) -> Snapshot:
    """The node with these reasons against its devices."""
    listed = advertise(inventory, settings, verdicts(ledger, inventory))
    return replace(snapshot(inventory, settings), ledger=ledger, advertisement=listed)


FAULT = Reason("xid-79", "XID 79: GPU has fallen off the bus", 100.0, 200.0, Clears.RECOVERY)
BY_HAND = Reason("cordoned", "cordoned", 5.0, 5.0, Clears.OPERATOR)


def test_a_fault_of_a_gpu_is_told_on_it_and_on_each_of_its_devices() -> None:
    inventory = node(mig_gpu(0, "1g.5gb", "1g.5gb"), mig_gpu(1, "1g.5gb"))
    state = held(inventory, {"GPU-0": Entry("GPU-0", reasons=(FAULT,))})
    first, second = inventory.gpus
    assert status(first, state) == DeviceStatus(None, "unhealthy", (FAULT,))
    assert [status(d, state) for d in first.mig_devices] == [
        DeviceStatus(ONE, "unhealthy", (FAULT,))
    ] * 2
    assert status(second, state) is None
    assert status(second.mig_devices[0], state) == DeviceStatus(ONE, "healthy")


def test_a_cordon_of_a_device_is_told_on_it_alone() -> None:
    inventory = node(mig_gpu(0, "1g.5gb", "1g.5gb"))
    one, other = inventory.gpus[0].mig_devices
    state = held(inventory, cordon(EMPTY, one.uuid, inventory, 5.0))
    assert status(one, state) == DeviceStatus(ONE, "unhealthy", (BY_HAND,))
    assert status(other, state) == DeviceStatus(ONE, "healthy")
    assert status(inventory.gpus[0], state) is None
    assert document(state, "daemon")["cordoned"] == [one.uuid]


def test_a_gpu_offered_whole_tells_the_reasons_of_its_parts() -> None:
    inventory = node(gpu(0, mig_device()))
    told = held(inventory, cordon(EMPTY, mig_device().uuid, inventory, 5.0), WHOLE)
    assert status(inventory.gpus[0], told) == DeviceStatus(
        "nvidia.com/gpu", "unhealthy", (BY_HAND,)
    )


def test_what_is_withheld_can_be_cordoned_too() -> None:
    inventory = node(gpu(0, mig=True))
    found = status(gpu(0), held(inventory, cordon(EMPTY, "GPU-0", inventory, 5.0)))
    assert found is not None
    assert found.health == "withheld"
    assert found.reasons[1:] == (BY_HAND,)


def test_what_is_wrong_just_now_has_no_time_and_no_rule() -> None:
    inventory = node(gpu(0))
    absent = Reason(Code.DRIVER_UNAVAILABLE, "no answer", scope=Scope.NODE)
    listed = advertise(inventory, MIXED, {"GPU-0": (absent,)})
    state = replace(snapshot(inventory), advertisement=listed, driver_error=absent)
    assert status(gpu(0), state) == DeviceStatus("nvidia.com/gpu", "unhealthy", (absent,))
    shown = document(state, "daemon")
    assert shown["gpus"][0]["reasons"] == [
        {
            "code": "driver-unavailable",
            "text": "no answer",
            "since": None,
            "clears": None,
            "scope": "node",
        }
    ]
    assert shown["problems"] == ["no answer"]


def test_a_missing_node_is_told() -> None:
    broken = gpu(0, missing_device_nodes=("/dev/nvidia0",))
    found = status(broken, snapshot(node(broken)))
    assert found == DeviceStatus(
        "nvidia.com/gpu", "unhealthy", (Reason("missing-node", "missing /dev/nvidia0"),)
    )


def test_json_tells_where_it_comes_from_and_why_something_is_down() -> None:
    inventory = node(mig_gpu(0, "1g.5gb"))
    listing = document(held(inventory, {"GPU-0": Entry("GPU-0", reasons=(FAULT,))}), "daemon")
    assert (listing["source"], listing["generation"]) == ("daemon", 1)
    reason = {
        "code": "xid-79",
        "text": FAULT.text,
        "since": 100.0,
        "clears": "recovery",
        "scope": "device",
    }
    assert (
        listing["gpus"][0]["reasons"] == listing["gpus"][0]["migDevices"][0]["reasons"] == [reason]
    )
    assert listing["cordoned"] == []
    assert json.loads(json.dumps(listing)) == listing  # JSON's types and nothing else
    scanned = document(snapshot(inventory), "scan")
    assert (scanned["source"], scanned["generation"]) == ("scan", None)


def test_a_cordon_of_a_device_that_is_not_there_is_told() -> None:
    ledger = {"GPU-9": Entry("GPU-9", reasons=(BY_HAND,))}
    assert document(held(node(gpu(0)), ledger), "daemon")["cordoned"] == ["GPU-9"]


def shown(capsys: pytest.CaptureFixture[str], settings: Settings, output: str) -> str:
    assert show(settings, output) == 0
    return capsys.readouterr().out


def test_json_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    listing: dict[str, Any] = json.loads(
        shown(capsys, dataclasses.replace(MIXED, simulate="p4d.24xlarge:all-balanced"), "json")
    )
    assert listing["strategy"] == "mixed"
    assert listing["resources"] == {
        "nvidia.com/mig-1g.5gb": {"devices": 16, "healthy": 16},
        "nvidia.com/mig-2g.10gb": {"devices": 8, "healthy": 8},
        "nvidia.com/mig-3g.20gb": {"devices": 8, "healthy": 8},
    }
    assert listing["problems"] == []
    assert listing["driver"]["version"]
    assert "/dev/nvidiactl" in listing["controlNodes"]
    assert len(listing["gpus"]) == 8
    first = listing["gpus"][0]
    assert first["mig"] == {"current": True, "pending": True}
    assert (first["resource"], first["health"]) == (None, None)
    assert first["computeCapability"] == "8.0"
    device = next(device for device in first["migDevices"] if device["profile"] == "3g.20gb")
    assert device["resource"] == "nvidia.com/mig-3g.20gb"
    assert device["health"] == "healthy"
    assert device["placement"]["size"] == 4
    assert len(device["nodes"]) == 3
    assert {
        "uuid",
        "gi",
        "ci",
        "memoryMiB",
        "numa",
        "missingNodes",
        "reasons",
        "multiprocessors",
    } <= device.keys()


def test_json_of_an_odd_node_can_be_written() -> None:
    inventory = node(
        replace(gpu(0, BLANK, warnings=("MIG device 0:0 is odd",)), mig=None, minor=None)
    )
    listing = document(snapshot(replace(inventory, unreadable={7: "GPU 7 has no UUID"})), "scan")
    assert listing["gpus"][0]["mig"] is None
    assert listing["gpus"][0]["migDevices"][0]["profile"] is None
    assert listing["driver"]["cuda"] is None
    problem, *unreadable = listing["problems"]
    assert "no readable profile" in problem
    assert unreadable == ["GPU 7 has no UUID", "MIG device 0:0 is odd"]


def test_the_table_is_plain_text_with_a_line_for_each_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shown(capsys, dataclasses.replace(MIXED, simulate="p4d.24xlarge:all-1g.5gb"), "table")
    assert (
        sum(
            " 1g.5gb " in line and f" {ONE} " in line and "healthy" in line
            for line in out.splitlines()
        )
        == 56
    )
    assert out.count("MIG on") == 8
    assert f"{ONE}: 56" in out
    assert "\x1b" not in out


def test_the_table_shows_why_nothing_is_advertised(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, dataclasses.replace(SINGLE, simulate="p4d.24xlarge:all-balanced"), "table")
    assert "! --mig-strategy=single: every MIG device must have one profile" in out
    assert out.count("withheld: --mig-strategy=single") == 32
    assert "nvidia.com/mig-1g.5gb:" not in out


def test_a_node_that_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ConfigError):
        show(Settings(simulate="nonsense"), "table")
