"""Time slicing: replicas of devices, their names and limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plugin.core.advertise.advertisement import Advertisement, advertise
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing

from .builders import gpu, ids, mig_gpu, node

GPU = "nvidia.com/gpu"
ONE, TWO, THREE = "nvidia.com/mig-1g.5gb", "nvidia.com/mig-2g.10gb", "nvidia.com/mig-3g.20gb"
ONES_0, ONES_1 = mig_gpu(0, *["1g.5gb"] * 7), mig_gpu(1, *["1g.5gb"] * 7)


def counts(advertisement: Advertisement) -> dict[str, int]:
    return {name: len(listed) for name, listed in advertisement.resources.items()}


def settings(strategy: str, **changes: Any) -> Settings:
    return replace(Settings(mig_strategy=MigStrategy(strategy)), **changes)


# ---- sharing


def sharing(*resources: SharedResource, rename: bool = False, fail: bool = False) -> Settings:
    return settings("mixed", sharing=Sharing(resources, rename, fail))


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        pytest.param(
            sharing(SharedResource(GPU, 4)), {GPU: 8, ONE: 7}, id="all, under the same name"
        ),
        pytest.param(
            sharing(SharedResource(GPU, 4), rename=True), {f"{GPU}.shared": 8, ONE: 7}, id="renamed"
        ),
        pytest.param(
            sharing(SharedResource(GPU, 4, rename="nvidia.com/slow"), rename=True),
            {"nvidia.com/slow": 8, ONE: 7},
            id="a name of its own wins",
        ),
        pytest.param(
            sharing(SharedResource(GPU, 4, devices=1)),
            {GPU: 5, ONE: 7},
            id="some, under the same name",
        ),
        pytest.param(
            sharing(SharedResource(GPU, 4, devices=1), rename=True),
            {GPU: 1, f"{GPU}.shared": 4, ONE: 7},
            id="some",
        ),
        pytest.param(
            sharing(SharedResource(ONE, 2, devices=("0:1", "MIG-0-7-0"))),
            {GPU: 2, ONE: 9},
            id="named",
        ),
        pytest.param(
            sharing(SharedResource(GPU, 2, devices=("1",))), {GPU: 3, ONE: 7}, id="by index"
        ),
        pytest.param(
            sharing(SharedResource(GPU, 4, devices=9)), {GPU: 8, ONE: 7}, id="more than there are"
        ),
        pytest.param(
            sharing(SharedResource(TWO, 4)), {GPU: 2, ONE: 7}, id="a resource of other nodes"
        ),
        pytest.param(sharing(SharedResource(GPU, 1)), {GPU: 2, ONE: 7}, id="one replica"),
        pytest.param(
            sharing(
                SharedResource(GPU, 2, rename="nvidia.com/any"),
                SharedResource(ONE, 2, rename="nvidia.com/any"),
            ),
            {"nvidia.com/any": 18},
            id="two into one name",
        ),
        pytest.param(
            sharing(SharedResource(GPU, 2, rename=ONE), SharedResource(ONE, 3)),
            {ONE: 25},
            id="into a shared one's name",
        ),
    ],
)
def test_sharing(shared: Settings, expected: dict[str, int]) -> None:
    advertisement = advertise(node(ONES_0, gpu(1), gpu(2)), shared)
    assert counts(advertisement) == expected
    for listed in advertisement.resources.values():
        assert len(set(ids(listed))) == len(listed)


def test_replicas_are_numbered_as_nvidia_does_and_keep_their_device() -> None:
    advertisement = advertise(node(gpu(0, error="lost"), gpu(1)), sharing(SharedResource(GPU, 2)))
    listed = advertisement.resources[GPU]
    assert ids(listed) == ["GPU-0::0", "GPU-0::1", "GPU-1::0", "GPU-1::1"]
    assert [item.device.uuid for item in listed] == ["GPU-0", "GPU-0", "GPU-1", "GPU-1"]
    assert [item.healthy for item in listed] == [False, False, True, True]


def test_a_shared_device_that_is_not_there_is_a_problem() -> None:
    advertisement = advertise(
        node(gpu(0)), sharing(SharedResource(GPU, 2, devices=("0", "7", "GPU-x")))
    )
    assert advertisement.problems == (f"sharing of {GPU}: no such device on this node: 7, GPU-x",)


@pytest.mark.parametrize(
    ("shared", "limits"),
    [
        (sharing(SharedResource(GPU, 2)), {}),
        (sharing(SharedResource(GPU, 2), fail=True), {GPU: 1}),
        (sharing(SharedResource(GPU, 2), rename=True, fail=True), {f"{GPU}.shared": 1}),
        (sharing(SharedResource(TWO, 2), fail=True), {}),
    ],
)
def test_limits(shared: Settings, limits: dict[str, int]) -> None:
    assert advertise(node(gpu(0)), shared).limits == limits
