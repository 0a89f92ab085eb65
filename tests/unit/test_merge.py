"""A scan on top of the last one: what does not answer is kept, with what the driver said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugin.core.inventory.merge import carry_over
from plugin.core.inventory.model import Gpu, Inventory, MigDevice

from .builders import gpu, mig_device, mig_gpu, node

FIRST, SECOND = mig_gpu(0, "1g.5gb", "1g.5gb"), mig_gpu(1, "2g.10gb")
LEFT, RIGHT = FIRST.mig_devices
BEFORE = node(FIRST, SECOND)


def without(whole: Gpu, device: MigDevice, **changes: object) -> Gpu:
    left = tuple(each for each in whole.mig_devices if each is not device)
    return replace(whole, mig_devices=left, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scanned", "expected"),
    [
        pytest.param(node(FIRST, SECOND), [FIRST, SECOND], id="all there"),
        pytest.param(node(SECOND), [SECOND], id="a GPU that is not there is gone"),
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
            [without(FIRST, RIGHT), SECOND],
            id="a MIG device that is not there is gone",
        ),
        pytest.param(
            node(without(FIRST, RIGHT, unreadable={RIGHT.index: "no handle"}), SECOND),
            [
                replace(
                    FIRST,
                    mig_devices=(LEFT, replace(RIGHT, error="no handle")),
                    unreadable={RIGHT.index: "no handle"},
                ),
                SECOND,
            ],
            id="a MIG device without a UUID is the one that had its index",
        ),
        pytest.param(
            node(gpu(0, mig_device(0, 0, "", error="attributes"), RIGHT), SECOND),
            [gpu(0, replace(LEFT, error="attributes"), RIGHT), SECOND],
            id="a MIG device without attributes keeps those it had",
        ),
        pytest.param(
            node(gpu(0, mig_device(0, 0, "", gi=9, error="attributes")), SECOND),
            [gpu(0, mig_device(0, 0, "", gi=9, error="attributes")), SECOND],
            id="unless it is another instance",
        ),
    ],
)
def test_carry_over(scanned: Inventory, expected: list[Gpu]) -> None:
    assert list(carry_over(BEFORE, scanned).gpus) == expected


def test_devices_are_found_by_their_uuid() -> None:
    assert BEFORE.device(RIGHT.uuid) is RIGHT
    assert BEFORE.device(SECOND.uuid) is BEFORE.gpu(SECOND.uuid) is SECOND
    assert BEFORE.device("GPU-9") is BEFORE.gpu(RIGHT.uuid) is None
    assert replace(BEFORE, gpus=(FIRST,)).gpu(SECOND.uuid) is None
