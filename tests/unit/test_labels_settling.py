"""Labels that hold after a restart, while a GPU does not answer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core.inventory.model import Inventory
from plugin.core.labels.node import Labels, Values, labels
from plugin.core.labels.settling import settled

from .builders import gpu, mig_gpu, node, snapshot
from .labelled import GPU, ONE, of

ALL, SOME = node(*(mig_gpu(n, "1g.5gb") for n in range(8))), node(mig_gpu(0, "1g.5gb"))
SILENT = replace(SOME, unreadable={1: "GPU 1 cannot be read"})


def found(inventory: Inventory) -> Labels:
    told = labels(replace(snapshot(inventory), geometry=1))
    assert told is not None
    return told


@pytest.mark.parametrize(
    ("now", "before", "geometry", "held"),
    [
        pytest.param(SILENT, of(ALL), 1, True, id="a GPU is silent since the start"),
        pytest.param(SILENT, of(ALL), 2, False, id="the node has changed since"),
        pytest.param(SOME, of(ALL), 1, False, id="every GPU answers"),
        pytest.param(SILENT, {}, 1, False, id="nothing was written before"),
        pytest.param(SILENT, of(node(gpu(), gpu(1))), 1, False, id="devices are new"),
        pytest.param(
            SILENT, of(node(*(gpu(n, product="T4") for n in range(3)))), 1, False, id="other cards"
        ),
        pytest.param(
            SILENT, {**of(ALL), f"{ONE}.count": "many"}, 1, False, id="edited by somebody"
        ),
        pytest.param(
            SILENT,
            {**of(ALL), f"{ONE}.sharing-strategy": "time-slicing"},
            1,
            False,
            id="configured differently",
        ),
    ],
)
def test_counts_of_an_earlier_process_hold_while_a_gpu_is_silent(
    now: Inventory, before: Values, geometry: int, *, held: bool
) -> None:
    settled_ = settled(found(now), before, geometry)
    assert settled_[f"{ONE}.count"] == ("8" if held else "1")
    assert settled_[f"{GPU}.count"] == ("8" if held else "1")
    if not held:
        assert settled_ == found(now).values


def test_what_does_not_describe_devices_is_not_held() -> None:
    before = {**of(ALL), f"{GPU}.machine": "another", "nvidia.com/cuda.driver.major": "1", "x": "y"}
    after = settled(found(SILENT), before, 1)
    assert after == {**found(SILENT).values, f"{ONE}.count": "8", f"{GPU}.count": "8"}


def test_a_profile_that_only_the_silent_gpu_has_is_held() -> None:
    before = of(node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "3g.20gb")))
    after = settled(found(SILENT), before, 1)
    assert after == before
