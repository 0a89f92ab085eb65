"""Judging events: who is concerned and how badly."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.health.faults import (
    Severity,
    attribute,
    decided,
    judge,
    recovery_fault,
    severity,
    watching,
)
from plugin.core.health.xids import CATALOGUE, Action
from plugin.core.inventory.model import MigDevice
from plugin.core.settings import HealthChecks, Settings

from .builders import mig_gpu, node

GPU = mig_gpu(0, *["1g.5gb"] * 7)
NODE = node(GPU, mig_gpu(1, *["1g.5gb"] * 7))
DEFAULT = Settings()


def _event(
    kind: EventKind, *, gi: int | None = None, ci: int | None = None, data: int = 0
) -> DriverEvent:
    return DriverEvent(kind, GPU.uuid, gi, ci, data)


@pytest.mark.parametrize(
    ("xid", "wanted"),
    [
        (13, Severity.APPLICATION),
        (31, Severity.APPLICATION),
        (43, Severity.COUNTED),
        (45, Severity.APPLICATION),
        (63, Severity.COUNTED),
        (94, Severity.APPLICATION),
        (154, Severity.COUNTED),
        *((xid, Severity.UNDECIDED) for xid in range(144, 151)),
        (48, Severity.FATAL),
        (64, Severity.FATAL),
        (74, Severity.FATAL),
        (79, Severity.FATAL),
        (95, Severity.FATAL),
        (109, Severity.FATAL),
        (119, Severity.FATAL),
        (142, Severity.FATAL),
        (151, Severity.FATAL),
        (9999, Severity.FATAL),
    ],
)
def test_the_catalogue_decides(xid: int, wanted: Severity) -> None:
    assert severity(xid, DEFAULT) is wanted


#: Each action of the catalogue with what it comes to on a driver that recommends nothing, and on
#: one that has no recovery action. Others than workflows name a remedy of their own.
_ENDS: dict[Action, tuple[Severity, Severity]] = {
    Action.IGNORE: (Severity.COUNTED, Severity.COUNTED),
    Action.RECOVERY_ACTION_CHANGED: (Severity.COUNTED, Severity.COUNTED),
    Action.RESTART_APP: (Severity.APPLICATION, Severity.APPLICATION),
    **dict.fromkeys(
        (
            Action.RESET_GPU,
            Action.RESTART_NODE,
            Action.RESTART_VM,
            Action.CHECK_MECHANICALS,
            Action.CHECK_UVM,
            Action.CONTACT_SUPPORT,
            Action.UPDATE_SOFTWARE,
        ),
        (Severity.FATAL, Severity.FATAL),
    ),
}
_WORKFLOWS = {
    45: (Severity.APPLICATION, Severity.APPLICATION),
    48: (Severity.FATAL, Severity.FATAL),
    74: (Severity.FATAL, Severity.FATAL),
    **dict.fromkeys(range(144, 151), (Severity.COUNTED, Severity.FATAL)),
}


@pytest.mark.parametrize("xid", CATALOGUE)
def test_where_the_driver_has_a_recovery_action_it_decides(xid: int) -> None:
    action = CATALOGUE[xid].action
    with_action, without = _WORKFLOWS[xid] if action is Action.WORKFLOW else _ENDS[action]
    found = severity(xid, DEFAULT)
    assert _after(found, Probe(GPU.uuid, recovery_action=0)) is with_action
    assert _after(found, Probe(GPU.uuid)) is without


def _after(found: Severity, probe: Probe) -> Severity:
    return decided(None, probe) if found is Severity.UNDECIDED else found


@pytest.mark.parametrize(
    ("before", "probe", "wanted"),
    [
        (None, Probe("", recovery_action=0), Severity.COUNTED),
        (None, Probe("", recovery_action=1), Severity.COUNTED),  # a fault of its own
        (None, Probe(""), Severity.FATAL),
        (Probe(""), Probe(""), Severity.FATAL),
        (Probe("", error="busy"), Probe(""), Severity.FATAL),
        (None, Probe("", error="busy"), Severity.UNDECIDED),
        (None, Probe("", error="gone", lost=True), Severity.UNDECIDED),
        # It has one, and could not be asked for it this once.
        (Probe("", recovery_action=0), Probe(""), Severity.UNDECIDED),
    ],
)
def test_the_probe_that_follows_decides(
    before: Probe | None, probe: Probe, wanted: Severity
) -> None:
    assert decided(before, probe) is wanted


@pytest.mark.parametrize(
    ("disabled", "enabled", "xid", "wanted"),
    [
        (HealthChecks(numbers=frozenset({79})), HealthChecks(), 79, Severity.COUNTED),
        (HealthChecks(xids=True), HealthChecks(), 79, Severity.COUNTED),
        (HealthChecks(xids=True), HealthChecks(), 144, Severity.COUNTED),
        (HealthChecks(), HealthChecks(numbers=frozenset({144})), 144, Severity.FATAL),
        (HealthChecks(all=True), HealthChecks(numbers=frozenset({79})), 79, Severity.FATAL),
        (HealthChecks(all=True), HealthChecks(numbers=frozenset({79})), 95, Severity.COUNTED),
        (HealthChecks(), HealthChecks(numbers=frozenset({31})), 31, Severity.FATAL),
        (HealthChecks(), HealthChecks(all=True), 43, Severity.FATAL),
        (HealthChecks(numbers=frozenset({31})), HealthChecks(xids=True), 31, Severity.FATAL),
    ],
)
def test_the_operator_overrides_it(
    disabled: HealthChecks, enabled: HealthChecks, xid: int, wanted: Severity
) -> None:
    settings = Settings(disable_healthchecks=disabled, enable_healthchecks=enabled)
    assert severity(xid, settings) is wanted


def test_everything_off_watches_nothing() -> None:
    settings = Settings(disable_healthchecks=HealthChecks(all=True))
    assert not watching(settings)
    assert judge(_event(EventKind.XID, data=79), NODE, settings) is None


@pytest.mark.parametrize("device", GPU.mig_devices, ids=lambda device: device.path)
def test_gi_and_ci_concern_that_one_device(device: MigDevice) -> None:
    assert attribute(_event(EventKind.XID, gi=device.gi, ci=device.ci), GPU) == (device.uuid,)


def test_gi_alone_concerns_all_its_compute_instances() -> None:
    first, second, other, *_ = GPU.mig_devices
    shared = (replace(first, gi=1, ci=0), replace(second, gi=1, ci=1))
    gpu = replace(GPU, mig_devices=(*shared, replace(other, gi=2, ci=0)))
    assert attribute(_event(EventKind.XID, gi=1), gpu) == (first.uuid, second.uuid)


def test_neither_concerns_the_gpu() -> None:
    assert attribute(_event(EventKind.XID), GPU) == (GPU.uuid,)


def test_an_instance_that_is_not_there_concerns_nobody() -> None:
    assert attribute(_event(EventKind.XID, gi=99, ci=0), GPU) == ()


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (EventKind.SINGLE_BIT_ECC, Severity.COUNTED),
        (EventKind.DOUBLE_BIT_ECC, Severity.FATAL),
        (EventKind.DRAM_RETIREMENT, Severity.COUNTED),
        (EventKind.DRAM_RETIREMENT_FAILURE, Severity.FATAL),
        (EventKind.NON_FATAL_POISON, Severity.APPLICATION),
        (EventKind.FATAL_POISON, Severity.FATAL),
        (EventKind.GPU_UNAVAILABLE, Severity.FATAL),
    ],
)
def test_events_that_are_no_xid(kind: EventKind, wanted: Severity) -> None:
    fault = judge(_event(kind), NODE, DEFAULT)
    assert fault is not None
    assert fault.severity is wanted


@pytest.mark.parametrize("kind", [EventKind.MIG_CONFIG, EventKind.RECOVERY_ACTION])
def test_reasons_to_look_are_no_faults(kind: EventKind) -> None:
    assert judge(_event(kind), NODE, DEFAULT) is None


def test_the_text_says_what_and_what_to_do() -> None:
    fault = judge(_event(EventKind.XID, data=79), NODE, DEFAULT)
    assert fault is not None
    assert fault.text == "XID 79: GPU has fallen off the bus; restart the node"
    unknown = judge(_event(EventKind.XID, data=9999), NODE, DEFAULT)
    assert unknown is not None
    assert "not in NVIDIA's catalogue" in unknown.text


@pytest.mark.parametrize("action", [1, 2, 3, 4, 5, 6, 7, 42])
def test_every_recovery_action_concerns_the_gpu(action: int) -> None:
    fault = recovery_fault(GPU.uuid, action)
    assert fault is not None
    assert fault.targets == (GPU.uuid,)
    assert fault.severity is Severity.FATAL


def test_no_recovery_action_is_no_fault() -> None:
    assert recovery_fault(GPU.uuid, 0) is None
