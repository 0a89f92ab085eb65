"""The ledger: what holds a device down, what clears it, and what survives a restart."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.health.events import Probe
from plugin.core.health.faults import Fault, Severity
from plugin.core.health.ledger import (
    EMPTY,
    INCIDENT_SECONDS,
    LONGEST_QUIET_SECONDS,
    Escalation,
    Ledger,
    clear,
    cordon,
    from_document,
    record,
    to_document,
    uncordon,
    verdicts,
)
from plugin.core.health.recovery import (
    ABSENT_CORDON_SECONDS,
    ABSENT_SECONDS,
    GpuHealth,
    after_probe,
    recover,
)
from plugin.core.inventory.model import Inventory

from .builders import mig_gpu, node

GPU = mig_gpu(0, *["1g.5gb"] * 7)
NODE = node(GPU, mig_gpu(1, *["1g.5gb"] * 7))
DEVICE = GPU.mig_devices[2]
ESCALATION = Escalation(10, 600)
QUIET = 60.0
FATAL = Fault("xid-95", "XID 95", Severity.FATAL, GPU.uuid, (DEVICE.uuid,), 95)
WIDE = replace(FATAL, targets=(GPU.uuid,))
HARMLESS = Fault("xid-31", "XID 31", Severity.APPLICATION, GPU.uuid, (DEVICE.uuid,), 31)
WELL = Probe(GPU.uuid, recovery_action=0)


def _down(ledger: Ledger, inventory: Inventory = NODE) -> set[str]:
    return set(verdicts(ledger, inventory)) & {
        d.uuid for gpu in inventory.gpus for d in gpu.mig_devices
    }


def _texts(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    found = verdicts(ledger, NODE)
    return {uuid: tuple(reason.text for reason in reasons) for uuid, reasons in found.items()}


def _recover(
    ledger: Ledger, gpu_health: GpuHealth, now: float, inventory: Inventory = NODE
) -> Ledger:
    return recover(ledger, inventory, {GPU.uuid: gpu_health}, now, QUIET).ledger


def _fault(fault: Fault = FATAL, now: float = 0.0, ledger: Ledger = EMPTY) -> Ledger:
    return record(ledger, fault, NODE, now, ESCALATION)


def test_a_fault_takes_out_the_one_device() -> None:
    assert _down(_fault()) == {DEVICE.uuid}


def test_a_fault_of_the_gpu_takes_out_its_seven() -> None:
    assert _down(_fault(WIDE)) == {device.uuid for device in GPU.mig_devices}


def test_a_gpu_handed_out_whole_is_as_well_as_its_parts() -> None:
    assert GPU.uuid in verdicts(_fault(), NODE)


def test_a_harmless_fault_is_counted_only() -> None:
    ledger = _fault(HARMLESS)
    assert _down(ledger) == set()
    assert ledger[DEVICE.uuid].xids == {31: 1}
    assert ledger[DEVICE.uuid].last_fault == 0.0


def test_recovers_after_a_quiet_period() -> None:
    well = GpuHealth(WELL, good_since=0.0)
    ledger = _fault(now=10)
    assert _down(_recover(ledger, well, 69)) == {DEVICE.uuid}
    assert recover(ledger, NODE, {GPU.uuid: well}, 69, QUIET).look_again == 70
    healed = _recover(ledger, well, 70)
    assert _down(healed) == set()
    assert healed[DEVICE.uuid].recoveries == 1


def test_a_repeated_fault_starts_the_quiet_period_anew() -> None:
    ledger = _fault(now=50, ledger=_fault(now=10))
    assert len(ledger[DEVICE.uuid].reasons) == 1
    assert ledger[DEVICE.uuid].reasons[0].since == 10
    assert _down(_recover(ledger, GpuHealth(WELL, good_since=0.0), 100)) == {DEVICE.uuid}


def test_a_later_harmless_fault_clears_nothing() -> None:
    assert _down(_fault(HARMLESS, 20, _fault(now=10))) == {DEVICE.uuid}


def test_no_recovery_while_the_driver_asks_for_one() -> None:
    gpu_health = after_probe(GpuHealth(WELL, good_since=0.0), replace(WELL, recovery_action=1), 20)
    assert gpu_health.good_since is None
    assert _down(_recover(_fault(), gpu_health, 10_000)) == {DEVICE.uuid}


def test_unknown_keeps_the_state() -> None:
    for gpu_health in (
        GpuHealth(),
        after_probe(GpuHealth(WELL, 0.0), replace(WELL, error="no answer"), 20),
    ):
        assert _down(_recover(_fault(), gpu_health, 10_000)) == {DEVICE.uuid}


def test_a_gpu_that_is_not_enumerated_keeps_its_state() -> None:
    ledger = _recover(_fault(), GpuHealth(WELL, 0.0), 10_000, node(NODE.gpus[1]))
    assert _down(ledger) == {DEVICE.uuid}


def test_an_unreadable_device_keeps_its_state() -> None:
    broken = replace(
        GPU,
        mig_devices=tuple(replace(d, error="no") if d is DEVICE else d for d in GPU.mig_devices),
    )
    ledger = _recover(_fault(), GpuHealth(WELL, 0.0), 10_000, node(broken, NODE.gpus[1]))
    assert _down(ledger) == {DEVICE.uuid}


def test_an_instance_made_anew_is_another_device() -> None:
    anew = replace(DEVICE, uuid="MIG-anew")
    gpu = replace(GPU, mig_devices=tuple(anew if d is DEVICE else d for d in GPU.mig_devices))
    before = _fault()
    assert recover(before, node(gpu), {}, 1, QUIET).ledger.keys() == {DEVICE.uuid}
    ledger = recover(before, node(gpu), {}, 1, QUIET, gone={DEVICE.uuid}).ledger
    assert DEVICE.uuid not in ledger
    assert _down(ledger, node(gpu)) == set()


def test_a_fault_of_the_gpu_outlives_its_instances() -> None:
    anew = replace(GPU, mig_devices=tuple(replace(d, uuid=f"{d.uuid}x") for d in GPU.mig_devices))
    ledger = _recover(_fault(WIDE), GpuHealth(replace(WELL, recovery_action=1)), 1, node(anew))
    assert len(_down(ledger, node(anew))) == 7


def test_a_driver_that_cannot_answer_needs_a_reset() -> None:
    silent = GpuHealth(replace(WELL, recovery_action=None), good_since=0.0)
    assert _down(_recover(_fault(now=10), silent, 10_000)) == {DEVICE.uuid}
    assert _down(_recover(_fault(now=10), replace(silent, reset_seen=5.0), 10_000)) == {DEVICE.uuid}
    assert _down(_recover(_fault(now=10), replace(silent, reset_seen=20.0), 10_000)) == set()


def test_a_clock_that_was_set_back_holds_nothing_down() -> None:
    ledger = _fault(now=1_000_000)
    gpu_health = after_probe(GpuHealth(WELL, good_since=1_000_000), WELL, 100)
    assert gpu_health.good_since == 100
    checked = recover(ledger, NODE, {GPU.uuid: gpu_health}, 100, QUIET)
    assert checked.look_again == 160
    assert _down(_recover(checked.ledger, gpu_health, 160)) == set()


def test_times_that_are_none_are_refused() -> None:
    document = to_document(_fault())
    text = json.dumps(document).replace('"since": 0.0', '"since": NaN')
    with pytest.raises(ValueError, match="no time"):
        from_document(json.loads(text))


def test_a_gpu_that_was_lost_and_answers_again_was_reset() -> None:
    lost = after_probe(GpuHealth(), Probe(GPU.uuid, error="lost", lost=True), 10)
    assert lost.good_since is None
    back = after_probe(lost, WELL, 20)
    assert (back.reset_seen, back.good_since) == (20, 20)


def test_plain_probes_keep_what_a_thorough_one_found() -> None:
    bad = after_probe(GpuHealth(), replace(WELL, remap_failure=True), 10)
    assert after_probe(bad, WELL, 20).good_since is None
    assert after_probe(bad, replace(WELL, remap_failure=False), 20).good_since == 20


def test_flapping_doubles_the_quiet_period_up_to_a_cap() -> None:
    ledger: Ledger = EMPTY
    now = 0.0
    waits = []
    for _ in range(10):
        ledger = _fault(now=now, ledger=ledger)
        due = recover(ledger, NODE, {GPU.uuid: GpuHealth(WELL, 0.0)}, now, QUIET).look_again
        assert due is not None
        waits.append(due - now)
        ledger = _recover(ledger, GpuHealth(WELL, 0.0), due)
        assert _down(ledger) == set()
        now = due + 1
    assert waits == [min(QUIET * 2**n, LONGEST_QUIET_SECONDS) for n in range(10)]
    # An hour of health forgives.
    calm = _recover(ledger, GpuHealth(WELL, 0.0), now + 3600)
    again = _fault(now=now + 3700, ledger=calm)
    assert (
        recover(again, NODE, {GPU.uuid: GpuHealth(WELL, 0.0)}, now + 3700, QUIET).look_again
        == now + 3760
    )


def test_a_device_that_has_flapped_for_months_still_waits_an_hour() -> None:
    entry = replace(_fault()[DEVICE.uuid], flaps=5000)
    assert entry.quiet_needed(QUIET) == LONGEST_QUIET_SECONDS


def test_many_application_faults_in_the_window_take_it_out() -> None:
    ledger: Ledger = EMPTY
    for n in range(9):
        ledger = _fault(HARMLESS, n * 60.0, ledger)
    assert _down(ledger) == set()
    assert _down(_fault(HARMLESS, 599, ledger)) == {DEVICE.uuid}
    assert _down(_fault(HARMLESS, 600, ledger)) == set()  # the first is out of the window by then


def test_a_program_that_crashes_is_one_incident_however_many_events_it_leaves() -> None:
    ledger: Ledger = EMPTY
    for n in range(40):
        ledger = _fault(replace(HARMLESS, xid=13 if n % 2 else 45), 100 + n * 0.03 / 40, ledger)
    assert _down(ledger) == set()
    assert ledger[DEVICE.uuid].xids == {13: 20, 45: 20}
    assert ledger[DEVICE.uuid].applications == (100,)


@pytest.mark.parametrize(
    ("apart", "out"),
    [(0.0, False), (INCIDENT_SECONDS / 10, False), (INCIDENT_SECONDS, True), (30.0, True)],
)
def test_an_incident_ends_a_second_after_it_began(apart: float, out: bool) -> None:  # noqa: FBT001
    ledger: Ledger = EMPTY
    for n in range(10):
        ledger = _fault(HARMLESS, n * apart, ledger)
    assert _down(ledger) == ({DEVICE.uuid} if out else set())


def test_incidents_are_counted_for_each_device() -> None:
    ledger: Ledger = EMPTY
    others = [replace(HARMLESS, targets=(device.uuid,)) for device in GPU.mig_devices]
    for n in range(9):
        for fault in others:
            ledger = _fault(fault, n * 10.0, ledger)
    assert _down(ledger) == set()
    assert _down(_fault(HARMLESS, 90, ledger)) == {DEVICE.uuid}


def _escalated(now: float = 90.0) -> Ledger:
    ledger: Ledger = EMPTY
    for n in range(10):
        ledger = _fault(HARMLESS, now - 90 + n * 10, ledger)
    assert _down(ledger) == {DEVICE.uuid}
    return ledger


@pytest.mark.parametrize("action", [0, None])
def test_an_escalation_ends_after_its_quiet_period_on_every_driver(action: int | None) -> None:
    how = GpuHealth(replace(WELL, recovery_action=action), good_since=0.0)
    ledger = _escalated()
    assert _down(_recover(ledger, how, 90 + QUIET - 1)) == {DEVICE.uuid}
    assert _down(_recover(ledger, how, 90 + QUIET)) == set()
    # A fault of the hardware needs more than time where the driver cannot say that all is well.
    both = _fault(now=90, ledger=ledger)
    assert _down(_recover(both, how, 90 + QUIET)) == ({DEVICE.uuid} if action is None else set())


def test_a_program_that_goes_on_crashing_keeps_its_device_out() -> None:
    how = GpuHealth(WELL, good_since=0.0)
    ledger = _fault(HARMLESS, 120, _escalated())
    assert ledger[DEVICE.uuid].reasons[0].since == 90
    assert _down(_recover(ledger, how, 119 + QUIET)) == {DEVICE.uuid}
    healed = _recover(ledger, how, 120 + QUIET)
    assert _down(healed) == set()
    assert _down(_fault(HARMLESS, 121 + QUIET, healed)) == set()  # counted anew


def test_escalation_can_be_off() -> None:
    ledger: Ledger = EMPTY
    for _ in range(50):
        ledger = record(ledger, HARMLESS, NODE, 0, Escalation(0, 600))
    assert _down(ledger) == set()


def test_cordon_needs_an_operator() -> None:
    ledger = cordon(_fault(), DEVICE.uuid, NODE, 1)
    assert _texts(ledger)[DEVICE.uuid] == ("XID 95", "cordoned")
    healed = _recover(ledger, GpuHealth(WELL, 0.0), 10_000)
    assert _texts(healed)[DEVICE.uuid] == ("cordoned",)
    assert _down(uncordon(healed, DEVICE.uuid)) == set()
    assert _down(uncordon(ledger, DEVICE.uuid)) == {DEVICE.uuid}


def _absent(ledger: Ledger, now: float, *, complete: bool = True) -> Ledger:
    """The ledger after a look that does not show the GPU."""
    return recover(ledger, node(NODE.gpus[1]), {}, now, QUIET, complete=complete).ledger


def test_entries_of_a_gpu_that_was_taken_out_end_after_a_day() -> None:
    ledger = _absent(_fault(WIDE, 5, _fault(now=5)), 100)
    assert ledger.keys() == {GPU.uuid, DEVICE.uuid}
    assert _absent(ledger, 99 + ABSENT_SECONDS).keys() == {GPU.uuid, DEVICE.uuid}
    ended = recover(ledger, node(NODE.gpus[1]), {}, 100 + ABSENT_SECONDS, QUIET)
    assert ended.ledger == {}
    assert {uuid for uuid, _ in ended.cleared} == {GPU.uuid, DEVICE.uuid}


def test_a_cordon_of_such_a_gpu_lasts_longer_than_its_faults() -> None:
    ledger = _absent(cordon(_fault(WIDE), GPU.uuid, NODE, 1), 100)
    later = _absent(ledger, 100 + ABSENT_SECONDS)
    assert [reason.code for reason in later[GPU.uuid].reasons] == ["cordoned"]
    assert later[GPU.uuid].recoveries == 0
    assert _absent(later, 99 + ABSENT_CORDON_SECONDS).keys() == {GPU.uuid}
    assert _absent(later, 100 + ABSENT_CORDON_SECONDS) == {}


def test_absence_that_is_not_certain_ends_nothing() -> None:
    ledger = _absent(_fault(), 100, complete=False)
    assert ledger[DEVICE.uuid].absent_since is None
    assert _absent(ledger, 10 * ABSENT_SECONDS).keys() == {DEVICE.uuid}
    begun = _absent(_fault(), 100)
    assert _absent(begun, 10 * ABSENT_SECONDS, complete=False) == begun


def test_a_gpu_that_returns_keeps_everything() -> None:
    ledger = _absent(_fault(WIDE), 100)
    assert from_document(to_document(ledger))[GPU.uuid].absent_since == 100
    back = _recover(ledger, GpuHealth(), 200)
    assert back[GPU.uuid].absent_since is None
    assert back[GPU.uuid].reasons == ledger[GPU.uuid].reasons
    assert _absent(back, 100 + ABSENT_SECONDS).keys() == {GPU.uuid}


def test_a_clock_that_was_set_back_ends_no_absence_early_and_none_late() -> None:
    ledger = _absent(_absent(_fault(), 1_000_000), 100)
    assert ledger[DEVICE.uuid].absent_since == 100
    assert _absent(ledger, 100 + ABSENT_SECONDS) == {}


def test_cordon_of_a_gpu_holds_for_instances_to_come() -> None:
    ledger = cordon(EMPTY, GPU.uuid, NODE, 1)
    anew = replace(GPU, mig_devices=tuple(replace(d, uuid=f"{d.uuid}x") for d in GPU.mig_devices))
    assert len(_down(ledger, node(anew))) == 7


def test_an_operator_clears_faults_and_flapping_but_no_cordon() -> None:
    ledger = cordon(_fault(WIDE, 1, _fault()), DEVICE.uuid, NODE, 1)
    cleared = clear(ledger, GPU.uuid, NODE)
    assert _texts(cleared) == {DEVICE.uuid: ("cordoned",), GPU.uuid: ("cordoned",)}


@given(
    st.lists(
        st.tuples(st.sampled_from([FATAL, WIDE, HARMLESS]), st.floats(0, 1e6), st.booleans()),
        max_size=20,
    )
)
def test_documents_give_back_every_verdict(history: list[tuple[Fault, float, bool]]) -> None:
    ledger: Ledger = EMPTY
    for fault, now, cordoned in history:
        ledger = _fault(fault, now, ledger)
        if cordoned:
            ledger = cordon(ledger, fault.targets[0], NODE, now)
    again = from_document(json.loads(json.dumps(to_document(ledger))))
    assert verdicts(again, NODE) == verdicts(ledger, NODE)
    assert {uuid: entry.reasons for uuid, entry in again.items()} == {
        uuid: entry.reasons for uuid, entry in ledger.items() if entry.reasons
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_other_document_is_refused_in_known_ways(document: object) -> None:
    try:
        from_document(document)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return
    assert document == {} or isinstance(document, dict)


def test_the_ledger_is_frozen() -> None:
    assert isinstance(_fault(), MappingProxyType)
