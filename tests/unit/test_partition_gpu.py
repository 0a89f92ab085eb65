"""Plans for one GPU: MIG mode, odd states, what is kept, where new instances go, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.core.inventory.model import Gpu, GpuInstance, MigDevice, MigMode, Placement, Unknown
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.planner import plan_gpu
from plugin.core.partition.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Occupant,
    Outcome,
    Plan,
    Refusal,
    RefusalCode,
    ResetNeeded,
    SwitchMode,
)
from plugin.sim.hardware.cards import catalog
from tests.partitioning import offers

CARD = catalog().cards["a100-40gb"]
OFFERS = offers(CARD)
ONE, TWO = Occupant("default/one", pod=True), Occupant("process 7")
OFF = Wanted(mig=False)


def gpu(
    *instances: tuple[int, str, int, int, Mapping[int, tuple[int, int | None]]], **changes: Any
) -> Gpu:
    """An A100 with (id, profile, start, size, {ci: (slices, start)}) for each GPU instance."""
    devices = [
        MigDevice(
            f"MIG-{gi}-{ci}",
            "GPU-0",
            0,
            0,
            gi,
            ci,
            profile,
            ci_slices=slices,
            ci_start=start,
            placement=Placement(at, size),
        )
        for gi, profile, at, size, compute in instances
        for ci, (slices, start) in compute.items()
    ]
    made = Gpu(
        "GPU-0",
        0,
        product="an A100",
        compute_capability=(8, 0),
        mig=MigMode(current=True, pending=True),
        memory_slices=8,
        mig_devices=tuple(replace(each, index=n) for n, each in enumerate(devices)),
        instances=tuple(
            GpuInstance(gi, profile, Placement(at, size)) for gi, profile, at, size, _ in instances
        ),
    )
    return replace(made, **changes)


def plan(on: Gpu, wanted: Wanted, **in_use: Occupant) -> Outcome:
    held = {uuid.replace("_", "-"): (holder,) for uuid, holder in in_use.items()}
    return plan_gpu(on, OFFERS, wanted, held)


def steps(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, Plan), outcome
    return [str(step) for step in outcome.steps]


def test_nothing_is_done_to_what_is_right() -> None:
    right = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}), (2, "3g.20gb", 4, 4, {0: (3, 0)}))
    outcome = plan(right, Wanted.of({"3g.20gb": 2}), MIG_1_0=ONE)
    assert steps(outcome) == []
    assert isinstance(outcome, Plan)
    assert outcome.kept == ("MIG-1-0", "MIG-2-0")


def test_the_steps_in_order() -> None:
    before = gpu(
        (1, "3g.20gb", 0, 4, {0: (1, 0), 1: (2, None)}),
        (5, "2g.10gb", 4, 2, {0: (2, 0)}),
        (13, "1g.5gb", 6, 1, {}),
    )
    outcome = plan(before, Wanted.of({"4g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1}))
    assert isinstance(outcome, Plan)
    assert outcome.steps == (
        DestroyComputeInstance(1, 0, "MIG-1-0"),
        DestroyComputeInstance(1, 1, "MIG-1-1"),
        DestroyGpuInstance(1, "3g.20gb", Placement(0, 4)),
        CreateGpuInstance("4g.20gb", 5, Placement(0, 4)),
        CreateComputeInstance("4g.20gb", 4, 4, Placement(0, 4)),
        CreateComputeInstance("1g.5gb", 1, 1, Placement(6, 1), 13),
    )
    assert outcome.kept == ("MIG-5-0",)
    assert outcome.leaving == ("MIG-1-0", "MIG-1-1")


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        # What would block the half of the card, or a 2g, comes last.
        ({"1g.5gb": 1}, ["6:1"]),
        ({"1g.5gb": 2}, ["4:1", "5:1"]),
        ({"1g.5gb": 3}, ["4:1", "5:1", "6:1"]),
        ({"2g.10gb": 1}, ["4:2"]),
        ({"3g.20gb": 1}, ["4:4"]),
        ({"1g.10gb": 1}, ["6:2"]),
        ({"1g.5gb": 1, "2g.10gb": 1}, ["4:2", "6:1"]),
        ({"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}, ["0:2", "2:1", "3:1", "4:4"]),
    ],
)
def test_new_instances_leave_room_for_the_largest(
    wanted: dict[str, int], places: list[str]
) -> None:
    outcome = plan(gpu(), Wanted.of(wanted))
    assert isinstance(outcome, Plan)
    assert [str(seat.placement) for seat in outcome.seats] == places


def test_a_device_that_stays_decides_where_the_others_go() -> None:
    before = gpu((2, "3g.20gb", 4, 4, {0: (3, 0)}), (9, "1g.5gb", 2, 1, {0: (1, 0)}))
    outcome = plan(before, Wanted.of({"3g.20gb": 1, "1g.5gb": 2, "2g.10gb": 1}), MIG_9_0=ONE)
    assert steps(outcome) == [
        "create 2g.10gb at 0:2",
        "create compute instance 2g.10gb at 0:2",
        "create 1g.5gb at 3:1",
        "create compute instance 1g.5gb at 3:1",
    ]


def test_of_equal_ones_that_stays_which_leaves_more_room() -> None:
    wide = {0: (1, 0)}
    before = gpu((8, "1g.5gb", 1, 1, wide), (4, "1g.10gb", 2, 2, wide), (6, "1g.10gb", 6, 2, wide))
    outcome = plan(before, Wanted.of({"1g.10gb": 1, "1g.5gb": 1}))
    assert isinstance(outcome, Plan)
    assert outcome.kept == ("MIG-8-0", "MIG-4-0")  # leaves 4:4, a 3g


def test_compute_instances_change_inside_a_gpu_instance_that_stays() -> None:
    before = gpu((1, "3g.20gb", 0, 4, {0: (1, 0), 1: (1, 1), 2: (1, 2)}))
    outcome = plan(before, Wanted.of({"2c.3g.20gb": 1, "1c.3g.20gb": 1}), MIG_1_2=ONE)
    assert steps(outcome) == [
        "destroy compute instance 1/0 (MIG-1-0)",
        "destroy compute instance 1/1 (MIG-1-1)",
        "create compute instance 2c.3g.20gb in GPU instance 1 at 0:4",
    ]


def test_one_in_use_in_the_way_of_a_larger_one_blocks_it() -> None:
    before = gpu((1, "3g.20gb", 0, 4, {0: (1, 0)}), (2, "3g.20gb", 4, 4, {0: (3, 0)}))
    wanted = Wanted.of({"2c.3g.20gb": 1, "1c.3g.20gb": 1, "3g.20gb": 1})
    outcome = plan(before, wanted, MIG_1_0=TWO, MIG_2_0=ONE)
    assert isinstance(outcome, Refusal)
    assert outcome.text == "GPU 0 waits for 0:0 (MIG-1-0), held by process 7"
    assert outcome.after is not None
    assert outcome.after.kept == ("MIG-2-0",)


@pytest.mark.parametrize(("start", "blocked"), [(2, False), (0, True), (None, True)])
def test_where_a_compute_instance_lies_that_the_driver_does_not_place(
    start: int | None,
    blocked: bool,  # noqa: FBT001 — an expected value
) -> None:
    before = gpu((2, "3g.20gb", 4, 4, {0: (1, start)}))
    wanted = Wanted.of({"4g.20gb": 1, "2c.3g.20gb": 1, "1c.3g.20gb": 1})
    outcome = plan(before, wanted, MIG_2_0=ONE)
    assert isinstance(outcome, Refusal if blocked else Plan)


def test_an_instance_whose_profile_is_not_known_is_in_the_way() -> None:
    before = gpu((1, "", 0, 4, {0: (0, None)}))
    assert steps(plan(before, Wanted.of({"3g.20gb": 1})))[:1] == [
        "destroy compute instance 1/0 (MIG-1-0)"
    ]
    assert isinstance(plan(before, Wanted.of({"4g.20gb": 1}), MIG_1_0=ONE), Refusal)


@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        (
            {"1g.6gb": 1},
            RefusalCode.UNKNOWN_PROFILE,
            "1g.6gb is not among its profiles; it has 1g.10gb, 1g.5gb, 1g.5gb+me, 2g.10gb, 3g.20gb",
        ),
        (
            {"3c.4g.20gb": 1},
            RefusalCode.UNKNOWN_PROFILE,
            "4g.20gb has no compute instances of 3 slices; it has 1, 2, 4",
        ),
        ({"1g.5gb": 8}, RefusalCode.IMPOSSIBLE, "8 × 1g.5gb do not fit onto it"),
        ({"3g.20gb": 3}, RefusalCode.IMPOSSIBLE, "3 instances of 3g.20gb, at most 2 fit"),
        ({"1c.3g.20gb": 7}, RefusalCode.IMPOSSIBLE, "7 × 1c.3g.20gb do not fit onto it"),
        ({"2c.3g.20gb": 3}, RefusalCode.IMPOSSIBLE, "cannot lie side by side"),
        ({"4g.20gb": 1, "1g.5gb": 4}, RefusalCode.IMPOSSIBLE, "1 × 4g.20gb cannot lie side by"),
    ],
)
def test_what_no_waiting_makes_possible(
    wanted: dict[str, int], code: RefusalCode, text: str
) -> None:
    outcome = plan(gpu(), Wanted.of(wanted))
    assert isinstance(outcome, Refusal)
    assert outcome.code is code
    assert text in outcome.text
    assert outcome.text.startswith("GPU 0 (an A100): ")


def test_media_engines_can_be_had_once() -> None:
    card = catalog().cards["a30-24gb"]
    outcome = plan_gpu(gpu(), offers(card), Wanted.of({"1g.6gb+me": 1, "2g.12gb+me": 1}), {})
    assert isinstance(outcome, Refusal)
    assert "1g.6gb+me and 2g.12gb+me need its only set of media engines" in outcome.text


def mode(current: bool, pending: bool) -> MigMode:  # noqa: FBT001 — as in MigMode
    return MigMode(current=current, pending=pending)


def test_switching_on() -> None:
    off = gpu(mig=mode(current=False, pending=False))
    outcome = plan(off, Wanted.of({"7g.40gb": 1}))
    assert isinstance(outcome, Plan)
    assert outcome.needs_reset
    assert steps(outcome) == [
        "switch MIG mode on, which takes a GPU reset",
        "create 7g.40gb at 0:8",
        "create compute instance 7g.40gb at 0:8",
    ]
    hopper = plan(replace(off, compute_capability=(9, 0)), Wanted.of({}))
    assert steps(hopper) == ["switch MIG mode on"]
    assert isinstance(hopper, Plan)
    assert not hopper.needs_reset


def test_switching_off_destroys_everything_first() -> None:
    before = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}), (2, "3g.20gb", 4, 4, {}))
    assert steps(plan(before, OFF)) == [
        "destroy compute instance 1/0 (MIG-1-0)",
        "destroy GPU instance 1 (3g.20gb at 0:4)",
        "destroy GPU instance 2 (3g.20gb at 4:4)",
        "switch MIG mode off, which takes a GPU reset",
    ]


def test_a_switch_needs_the_whole_gpu_free() -> None:
    before = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}))
    outcome = plan(before, OFF, MIG_1_0=ONE, GPU_0=TWO)
    assert isinstance(outcome, Refusal)
    assert [(each.path, each.holders) for each in outcome.blockers] == [
        ("0", (TWO,)),
        ("0:0", (ONE,)),
    ]
    off = gpu(mig=mode(current=False, pending=False))
    assert isinstance(plan(off, Wanted.of({}), GPU_0=ONE), Refusal)
    # The GPU as a whole blocks nothing but a switch of its mode.
    assert isinstance(plan(before, Wanted.of({}), GPU_0=ONE), Plan)


def test_a_mode_that_waits_for_a_reset() -> None:
    turning_on = gpu(mig=mode(current=False, pending=True))
    outcome = plan(turning_on, Wanted.of({"7g.40gb": 1}))
    assert outcome == ResetNeeded(on=True)
    assert outcome.text == "MIG mode on waits for a GPU reset or a reboot"
    turning_off = gpu(mig=mode(current=True, pending=False))
    assert plan(turning_off, OFF) == ResetNeeded(on=False)


BY_HAND = "while nothing uses the GPU, run nvidia-smi -i 0 -mig {}"
RESETS = ", then nvidia-smi -i 0 --gpu-reset, or reboot the node"


@pytest.mark.parametrize(
    ("current", "pending", "wanted", "capability", "text"),
    [
        (False, False, Wanted.of({}), (8, 0), BY_HAND.format(1) + RESETS),
        (False, False, Wanted.of({"7g.40gb": 1}), (8, 0), BY_HAND.format(1) + RESETS),
        (False, False, Wanted.of({"7g.40gb": 1}), (9, 0), BY_HAND.format(1)),
        (True, True, OFF, (8, 0), BY_HAND.format(0) + RESETS),
        (True, True, OFF, (9, 0), BY_HAND.format(0)),
        # What somebody has ordered is taken back by hand, too; that takes no reset.
        (False, True, OFF, (8, 0), BY_HAND.format(0)),
        (True, False, Wanted.of({}), (8, 0), BY_HAND.format(1)),
        # The switch is made, and waits.
        (False, True, Wanted.of({}), (8, 0), ""),
        (True, False, OFF, (8, 0), ""),
    ],
)
@pytest.mark.parametrize("held", [{}, {"GPU-0": (ONE,)}])
def test_a_switch_by_hand(
    current: bool,  # noqa: FBT001
    pending: bool,  # noqa: FBT001
    wanted: Wanted,
    capability: tuple[int, int],
    text: str,
    held: dict[str, tuple[Occupant, ...]],
) -> None:
    made = gpu(mig=mode(current, pending), compute_capability=capability)
    if isinstance(plan_gpu(made, OFFERS, wanted, held), Refusal):
        text = text.replace(" GPU, run", f" GPU (in use now: 0 (GPU-0), held by {ONE}), run")
    outcome = plan_gpu(made, OFFERS, wanted, held, mig_mode=False)
    assert outcome == ResetNeeded(wanted.mig, text)
    assert outcome.text.endswith(text or "waits for a GPU reset or a reboot")


def test_without_a_switch_the_option_changes_nothing() -> None:
    on = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}))
    for wanted in (Wanted.of({}), Wanted.of({"7g.40gb": 1}), Wanted.of({"7g.40gb": 2})):
        for held in ({}, {"MIG-1-0": (ONE,)}):
            expected = plan_gpu(on, OFFERS, wanted, held)
            assert plan_gpu(on, OFFERS, wanted, held, mig_mode=False) == expected


def test_a_pending_switch_that_is_not_wanted_is_taken_back() -> None:
    back_off = plan(gpu(mig=mode(current=False, pending=True)), OFF)
    assert isinstance(back_off, Plan)
    assert back_off.steps == (SwitchMode(on=False),)
    before = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}), mig=mode(current=True, pending=False))
    back_on = plan(before, Wanted.of({"3g.20gb": 1}))
    assert isinstance(back_on, Plan)
    assert back_on.steps == (SwitchMode(on=True),)
    assert back_on.kept == ("MIG-1-0",)
    assert isinstance(plan(before, Wanted.of({"3g.20gb": 1}), MIG_1_0=ONE), Refusal)


def test_a_card_without_mig() -> None:
    turing = gpu(mig=None)
    outcome = plan_gpu(turing, (), Wanted.of({}), {})
    assert isinstance(outcome, Refusal)
    assert outcome.code is RefusalCode.NO_MIG
    assert plan_gpu(turing, (), OFF, {}) == Plan(mig=False)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"error": "reading it: GPU is lost"}, "GPU is lost"),
        ({"hung": True, "uncounted": Unknown("counting MIG devices")}, "has not returned"),
        ({"hung": True, "instances": None}, "has not returned"),
        ({"hung": True, "mig": None}, "has not returned"),
        ({"mig_unknown": Unknown("reading its MIG mode")}, "reading its MIG mode"),
        ({"uncounted": Unknown("counting MIG devices")}, "counting MIG devices"),
        ({"unreadable": {3: "MIG device 3: lost"}}, "MIG device 3: lost"),
        ({"instances": None}, "which GPU instances there are is not known"),
        ({"instances": ()}, "MIG-1-0 is in GPU instance 1, which the driver does not list"),
    ],
)
def test_a_gpu_that_cannot_be_read_is_not_planned(changes: dict[str, Any], why: str) -> None:
    unread = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}), **changes)
    outcome = plan(unread, Wanted.of({"3g.20gb": 1}))
    assert isinstance(outcome, Refusal)
    assert outcome.code is RefusalCode.UNREADABLE
    assert why in outcome.text


def test_what_the_next_scan_makes_certain_is_no_refusal_for_good() -> None:
    there = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}), (2, "3g.20gb", 4, 4, {0: (3, 0)}), instances=())
    for unseen, code in (
        ((True, True), RefusalCode.UNSETTLED),
        ((True, False), RefusalCode.UNREADABLE),
        ((False, False), RefusalCode.UNREADABLE),
    ):
        devices = zip(there.mig_devices, unseen, strict=True)
        changed = tuple(replace(device, unseen=each) for device, each in devices)
        outcome = plan(replace(there, mig_devices=changed), Wanted.of({"3g.20gb": 1}))
        assert isinstance(outcome, Refusal)
        assert outcome.code is code


def test_a_gpu_that_does_not_answer_is_as_it_was_last_read() -> None:
    silent = gpu((1, "3g.20gb", 0, 4, {0: (3, 0)}), hung=True, error="does not answer")
    asis = plan(silent, Wanted.of({"3g.20gb": 1}))
    assert isinstance(asis, Plan)
    assert (asis.steps, asis.kept) == ((), ("MIG-1-0",))
    for wanted in (Wanted.of({"3g.20gb": 2}), Wanted.of({}), OFF):
        other = plan(silent, wanted)
        assert isinstance(other, Refusal)
        assert other.code is RefusalCode.UNREADABLE


def test_profiles_that_are_not_known_are_no_answer() -> None:
    outcome = plan_gpu(gpu(), (), Wanted.of({"3g.20gb": 1}), {})
    assert isinstance(outcome, Refusal)
    assert outcome.code is RefusalCode.UNREADABLE
    assert steps(plan_gpu(gpu(), (), OFF, {})) == ["switch MIG mode off, which takes a GPU reset"]
