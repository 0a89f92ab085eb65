"""A scan on top of the last one: identities hold, what does not answer is kept with what the
driver said of it, and nothing is gone before that is certain.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core.inventory.merge import Before, merge
from plugin.core.inventory.model import Gpu, Inventory, MigDevice, MigMode, Placement, Unknown

from .builders import gpu, mig_device, mig_gpu, node

FIRST, SECOND = mig_gpu(0, "1g.5gb", "1g.5gb"), mig_gpu(1, "2g.10gb")
LEFT, RIGHT = FIRST.mig_devices
BEFORE = node(FIRST, SECOND)
UNSEEN = "MIG device 0:1: the driver shows it no more; the next scan makes that certain"
NO_ANSWER = Unknown("reading its MIG mode: Unknown Error", 999)


def without(whole: Gpu, device: MigDevice, **changes: object) -> Gpu:
    left = tuple(each for each in whole.mig_devices if each is not device)
    return replace(whole, mig_devices=left, **changes)


def kept(device: MigDevice, error: str) -> Gpu:
    """FIRST, with RIGHT as it was."""
    return replace(FIRST, mig_devices=(LEFT, replace(device, error=error, unseen=error == UNSEEN)))


@pytest.mark.parametrize(
    ("scanned", "expected"),
    [
        pytest.param(node(FIRST, SECOND), [FIRST, SECOND], id="all there"),
        pytest.param(node(SECOND), [SECOND], id="a GPU that is not there is gone"),
        pytest.param(
            replace(node(SECOND), doubts={FIRST.uuid: "odd words"}),
            [replace(FIRST, error="odd words"), SECOND],
            id="unless the driver does not deny it",
        ),
        pytest.param(
            replace(node(SECOND), unreadable={0: "odd words"}),
            [replace(FIRST, error="odd words"), SECOND],
            id="a GPU without a UUID is the one that had its index",
        ),
        pytest.param(
            replace(node(SECOND), unreadable={0: "hangs"}, hung=frozenset({0})),
            [replace(FIRST, error="hangs", hung=True), SECOND],
            id="a GPU that hangs before its UUID is read",
        ),
        pytest.param(
            node(gpu(0, error="hangs", hung=True), SECOND),
            [replace(FIRST, error="hangs", hung=True), SECOND],
            id="a GPU that hangs keeps its devices",
        ),
        pytest.param(
            replace(node(SECOND), unreadable={7: "odd words"}),
            [SECOND],
            id="a GPU without a UUID at an index of its own",
        ),
        pytest.param(
            node(gpu(0, error="broken", warnings=("w",)), SECOND),
            [replace(FIRST, error="broken", warnings=("w",)), SECOND],
            id="a GPU that cannot be read keeps its last picture",
        ),
        pytest.param(
            node(without(FIRST, RIGHT), SECOND),
            [kept(RIGHT, UNSEEN), SECOND],
            id="a MIG device that is not there is looked for once more",
        ),
        pytest.param(
            node(without(FIRST, RIGHT, unreadable={RIGHT.index: "no handle"}), SECOND),
            [replace(kept(RIGHT, "no handle"), unreadable={RIGHT.index: "no handle"}), SECOND],
            id="a MIG device without a UUID is the one that had its index",
        ),
        pytest.param(
            replace(node(without(FIRST, RIGHT), SECOND), doubts={RIGHT.uuid: "it is there"}),
            [kept(RIGHT, "it is there"), SECOND],
            id="a MIG device that the driver finds in another way",
        ),
        pytest.param(
            node(without(FIRST, RIGHT, uncounted=Unknown("no count")), SECOND),
            [replace(kept(RIGHT, "GPU 0: no count"), uncounted=Unknown("no count")), SECOND],
            id="a GPU that does not say how many it has",
        ),
        pytest.param(
            node(gpu(0, mig_device(0, 0, "", error="attributes"), RIGHT), SECOND),
            [gpu(0, replace(LEFT, error="attributes"), RIGHT, instances=()), SECOND],
            id="a MIG device without attributes keeps those it had",
        ),
        pytest.param(
            node(replace(FIRST, mig=None, mig_unknown=NO_ANSWER), SECOND),
            [replace(FIRST, mig_unknown=NO_ANSWER), SECOND],
            id="a MIG mode that was known holds",
        ),
    ],
)
def test_merge(scanned: Inventory, expected: list[Gpu]) -> None:
    found = list(merge(Before(BEFORE), scanned).inventory.gpus)
    # What the builder makes of a device without a profile does not matter.
    assert [replace(each, instances=None) for each in found] == [
        replace(each, instances=None) for each in expected
    ]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(Before(BEFORE, unseen={RIGHT.uuid}), id="a second scan"),
        pytest.param(Before(BEFORE, announced={FIRST.uuid}), id="the driver announced it"),
    ],
)
def test_certainly_gone(before: Before) -> None:
    scanned = node(without(FIRST, RIGHT), SECOND)
    found = merge(before, scanned)
    assert (set(found.gone), set(found.unseen)) == ({RIGHT.uuid}, set())
    assert found.inventory == scanned


def test_what_was_made_in_its_place_makes_it_certain() -> None:
    anew = replace(RIGHT, uuid="MIG-anew")
    scanned = node(replace(FIRST, mig_devices=(LEFT, anew)), SECOND)
    found = merge(Before(BEFORE), replace(scanned, doubts={RIGHT.uuid: "from memory"}))
    assert (set(found.gone), found.inventory.gpus) == ({RIGHT.uuid}, scanned.gpus)


def test_mig_mode_off_makes_it_certain() -> None:
    off = gpu(0, mig=False)
    found = merge(Before(BEFORE), node(off, SECOND))
    assert found.gone == {LEFT.uuid, RIGHT.uuid}
    assert found.inventory == node(off, SECOND)


def test_doubt_outlasts_any_number_of_scans_and_announcements() -> None:
    scanned = replace(node(without(FIRST, RIGHT), SECOND), doubts={RIGHT.uuid: "no answer"})
    before = Before(BEFORE, unseen={RIGHT.uuid}, announced={FIRST.uuid})
    found = merge(before, scanned)
    assert not found.gone | found.unseen
    assert found.inventory.device(RIGHT.uuid) == replace(RIGHT, error="no answer")


@pytest.mark.parametrize(
    ("unseen", "scanned", "gone", "again"),
    [
        pytest.param(set(), BEFORE, set(), {"MIG-saved"}, id="a first scan"),
        pytest.param({"MIG-saved"}, BEFORE, {"MIG-saved"}, set(), id="a second scan"),
        pytest.param(
            {"MIG-saved"},
            replace(BEFORE, doubts={"MIG-saved": "no answer"}),
            set(),
            set(),
            id="no answer",
        ),
        pytest.param(
            {"MIG-saved"},
            node(replace(FIRST, unreadable={4: "no UUID"}), SECOND),
            set(),
            set(),
            id="something there that cannot be read",
        ),
        pytest.param({"MIG-saved"}, node(SECOND), set(), set(), id="its GPU is not there"),
    ],
)
def test_devices_that_only_the_ledger_remembers(
    unseen: set[str], scanned: Inventory, gone: set[str], again: set[str]
) -> None:
    before = Before(Inventory(), {"MIG-saved": FIRST.uuid}, unseen)
    assert before.sought() == ("MIG-saved",)
    found = merge(before, scanned)
    assert (set(found.gone), set(found.unseen)) == (gone, again)
    assert found.inventory == scanned


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"profile": "1g.10gb"}, "its profile was 1g.5gb, and the driver now says 1g.10gb"),
        ({"placement": Placement(4, 1)}, "its placement was 0:1, and the driver now says 4:1"),
        ({"gi": 9}, "its GPU instance was 7, and the driver now says 9"),
        ({"ci": 3}, "its compute instance was 0, and the driver now says 3"),
        ({"gi": 9, "error": "x"}, "its GPU instance was 7, and the driver now says 9"),
    ],
)
def test_identity_is_kept_and_what_disagrees_is_said(changes: dict[str, object], what: str) -> None:
    odd = replace(LEFT, **changes)
    scanned = node(replace(FIRST, mig_devices=(odd, RIGHT)), SECOND)
    found = merge(Before(BEFORE), scanned).inventory
    device = found.device(LEFT.uuid)
    assert isinstance(device, MigDevice)
    same = ("uuid", "gpu_uuid", "gi", "ci", "profile", "placement")
    assert [getattr(device, name) for name in same] == [getattr(LEFT, name) for name in same]
    assert what in found.gpus[0].warnings[-1]
    assert bool(device.error) == bool({"gi", "ci"} & changes.keys())


def test_a_reading_that_failed_costs_nothing_that_was_known() -> None:
    poor = replace(LEFT, placement=None, profile="")
    bare = replace(FIRST, product="", memory_mib=0, memory_slices=0, mig_devices=(poor, RIGHT))
    assert merge(Before(BEFORE), node(bare, SECOND)).inventory == BEFORE


def test_a_profile_that_was_not_known_becomes_known() -> None:
    nameless = replace(LEFT, profile="", error="no profile")
    before = node(replace(FIRST, mig_devices=(nameless, RIGHT)), SECOND)
    assert merge(Before(before), BEFORE).inventory == BEFORE


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (FIRST.mig, None, (FIRST.mig, True)),
        (None, None, (None, False)),
        (None, MigMode(current=True, pending=True), (MigMode(current=True, pending=True), False)),
    ],
)
def test_a_card_that_had_mig_never_loses_it(
    before: MigMode | None, now: MigMode | None, expected: tuple[MigMode | None, bool]
) -> None:
    old, new = gpu(0, mig=False), gpu(0, mig=False)
    merged = merge(Before(node(replace(old, mig=before))), node(replace(new, mig=now))).inventory
    (found,) = merged.gpus
    assert (found.mig, found.mig_unknown is not None) == expected


def test_a_card_that_certainly_has_no_mig_keeps_that() -> None:
    plain = replace(gpu(0, mig=False), mig=None)
    scanned = replace(plain, mig_unknown=NO_ANSWER)
    (found,) = merge(Before(node(plain)), node(scanned)).inventory.gpus
    assert found.mig_certain
    assert found.warnings == (f"GPU 0: {NO_ANSWER}",)


def test_devices_are_found_by_their_uuid() -> None:
    assert BEFORE.device(RIGHT.uuid) is RIGHT
    assert BEFORE.device(SECOND.uuid) is BEFORE.gpu(SECOND.uuid) is SECOND
    assert BEFORE.device("GPU-9") is BEFORE.gpu(RIGHT.uuid) is None
    assert replace(BEFORE, gpus=(FIRST,)).gpu(SECOND.uuid) is None


def test_the_machine_and_a_cards_class_hold_once_they_were_read() -> None:
    known = replace(node(gpu(0, pci_class=0x030200)), machine="p4d.24xlarge")
    merged = merge(Before(known), node(gpu(0))).inventory
    assert merged == known
