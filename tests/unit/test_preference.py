"""Preferred allocation: tables of small nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import pytest
from msgspec.structs import replace

from plugin.core.advertise.listed import Listed
from plugin.core.inventory.model import Gpu, MigDevice, Placement
from plugin.core.settings import Policy

from .builders import gpu, ids, listing, mig_device
from .preference_nodes import DISTRIBUTED, PACKED, TWO_GPUS, choose, name, names, ones

FOUR_GPUS = listing(ones(0) + ones(1) + ones(2, numa=1) + ones(3, numa=1))


@pytest.mark.parametrize(
    ("listed", "available", "must", "size", "expected"),
    [
        pytest.param(
            TWO_GPUS, ids(TWO_GPUS), (), 1, names(g0=[0]), id="an idle node fills from the start"
        ),
        pytest.param(TWO_GPUS, ids(TWO_GPUS), (), 7, names(g0=range(7)), id="one whole GPU"),
        pytest.param(
            TWO_GPUS,
            names(g0=range(7), g1=[3, 4]),
            (),
            2,
            names(g1=[3, 4]),
            id="the tight fit, not the idle GPU",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=range(7), g1=[3, 4]),
            (),
            3,
            names(g0=[0, 1, 2]),
            id="one GPU rather than the rest of two",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[0, 2, 4], g1=[5, 6]),
            (),
            1,
            names(g0=[0]),
            id="scattered ids before a longer run",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[0, 1, 2, 5], g1=[0, 1, 2]),
            (),
            1,
            names(g1=[0]),
            id="equal runs: the GPU with less left",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[0, 2, 3, 4]),
            (),
            1,
            names(g0=[0]),
            id="on the GPU from the shortest run",
        ),
        pytest.param(
            TWO_GPUS, names(g0=[0, 1, 2, 5, 6]), (), 2, names(g0=[5, 6]), id="a short run whole"
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=range(7), g1=range(7)),
            names(g1=[3]),
            3,
            names(g1=[3, 0, 1]),
            id="the GPU in use first",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=range(7), g1=[3, 4]),
            names(g1=[3]),
            4,
            names(g1=[3, 4], g0=[0, 1]),
            id="the GPU in use is emptied before another is touched",
        ),
        pytest.param(
            FOUR_GPUS,
            ids(FOUR_GPUS),
            names(g2=[0]),
            8,
            names(g2=range(7), g3=[0]),
            id="the second GPU on the NUMA node of the first",
        ),
        pytest.param(
            FOUR_GPUS,
            names(g0=range(7), g1=[0, 1], g2=range(6), g3=range(4)),
            (),
            10,
            names(g2=range(6), g3=range(4)),
            id="two GPUs of one NUMA node rather than a longer run kept",
        ),
        pytest.param(
            FOUR_GPUS,
            names(g0=range(7), g1=[0], g2=range(7), g3=[0]),
            (),
            14,
            names(g0=range(7), g2=range(7)),
            id="never another GPU for the sake of NUMA",
        ),
        pytest.param(
            FOUR_GPUS,
            names(g0=range(3), g1=range(3), g2=range(3), g3=range(3)),
            names(g2=[0]),
            8,
            names(g2=range(3), g3=range(3), g0=[0, 1]),
            id="as many on the NUMA node as it has",
        ),
    ],
)
def test_packed(
    listed: Sequence[Listed],
    available: list[str],
    must: Collection[str],
    size: int,
    expected: list[str],
) -> None:
    preference = choose(listed, available, size, must=must)
    assert sorted(preference.ids) == sorted(expected)
    assert preference.warnings == ()


def test_packed_takes_whole_gpus_of_one_numa_node() -> None:
    listed = listing([gpu(index) for index in range(8)])
    assert choose(listed, ids(listed)[3:], 2).ids == ("GPU-4", "GPU-5")


def test_compute_instances_of_a_used_gpu_instance_go_first() -> None:
    """A GPU instance with one compute instance gone is no free run; one that is whole is."""
    parts = [
        mig_device(0, start, "1c.3g.20gb", ci=ci, placement=Placement(start, 4))
        for start in (0, 4)
        for ci in range(3)
    ]
    listed = listing(parts)
    free = [item.id for item in listed if item.id != parts[4].uuid]
    assert choose(listed, free, 2).ids == (parts[3].uuid, parts[5].uuid)


def test_without_placements_the_instance_ids_keep_the_order() -> None:
    blind = listing([replace(device, placement=None) for device in ones(0)])
    assert choose(blind, names(g0=[0, 2, 3]), 1).ids == (name(0, 0),)
    assert choose(blind, names(g0=[2, 3, 5]), 1).ids == (name(0, 5),)


# ---- distributed


@pytest.mark.parametrize(
    ("available", "must", "size", "expected"),
    [
        pytest.param(ids(FOUR_GPUS), (), 4, {0: 1, 1: 1, 2: 1, 3: 1}, id="one of each"),
        pytest.param(ids(FOUR_GPUS), (), 2, {0: 1, 1: 1}, id="equally loaded: the close one"),
        pytest.param(
            ids(FOUR_GPUS), names(g3=[0]), 2, {3: 1, 2: 1}, id="close to what must be included"
        ),
        pytest.param(
            names(g0=range(3), g1=range(7), g2=range(6)), (), 1, {1: 1}, id="the least loaded"
        ),
        pytest.param(
            names(g0=range(3), g1=range(7), g2=range(6)),
            (),
            3,
            {1: 2, 2: 1},
            id="level after level",
        ),
        pytest.param(
            names(g0=range(2), g1=range(2)),
            names(g0=[0]),
            2,
            {0: 1, 1: 1},
            id="must counts as load",
        ),
        pytest.param(names(g0=range(2), g1=range(1)), (), 9, {0: 2, 1: 1}, id="all there is"),
    ],
)
def test_distributed(
    available: list[str], must: Collection[str], size: int, expected: dict[int, int]
) -> None:
    preference = choose(FOUR_GPUS, available, size, must=must, policy=DISTRIBUTED)
    gpu_of = {item.id: item.device for item in FOUR_GPUS}
    assert Counter(number(gpu_of[chosen]) for chosen in preference.ids) == expected


def test_load_is_a_share_of_what_the_gpu_has() -> None:
    listed = listing(ones(0, range(2)) + ones(1, range(6)))
    # One of two against two of six.
    assert choose(listed, names(g0=[0], g1=range(4)), 1, policy=DISTRIBUTED).ids == (name(1, 0),)


# ---- shared

SHARED = listing([gpu(0), gpu(1)], replicas=3)
SHARED_MIG = listing(ones(0, range(2)) + ones(1, range(2)), replicas=2)


@pytest.mark.parametrize(
    ("listed", "available", "size", "shared", "expected"),
    [
        pytest.param(
            SHARED, ids(SHARED), 2, DISTRIBUTED, ["GPU-0::0", "GPU-1::0"], id="spread over GPUs"
        ),
        pytest.param(
            SHARED, ids(SHARED), 2, PACKED, ["GPU-0::0", "GPU-0::1"], id="packed on one GPU"
        ),
        pytest.param(
            SHARED, ids(SHARED)[1:], 1, DISTRIBUTED, ["GPU-1::0"], id="the least shared GPU"
        ),
        pytest.param(SHARED, ids(SHARED)[:-1], 1, PACKED, ["GPU-1::0"], id="the most shared GPU"),
        pytest.param(
            SHARED_MIG,
            ids(SHARED_MIG)[:4],
            2,
            DISTRIBUTED,
            [f"{name(0, 0)}::0", f"{name(0, 1)}::0"],
            id="over devices",
        ),
        pytest.param(
            SHARED_MIG,
            ids(SHARED_MIG)[1:],
            1,
            DISTRIBUTED,
            [f"{name(1, 0)}::0"],
            id="the least loaded GPU of a node",
        ),
        pytest.param(
            SHARED_MIG,
            [shared for shared in ids(SHARED_MIG) if shared != f"{name(1, 1)}::0"],
            1,
            PACKED,
            [f"{name(1, 1)}::1"],
            id="the most shared device",
        ),
    ],
)
def test_replicas_follow_their_own_policy(
    listed: Sequence[Listed], available: list[str], size: int, shared: Policy, expected: list[str]
) -> None:
    for policy in Policy:
        assert sorted(choose(listed, available, size, policy=policy, shared=shared).ids) == sorted(
            expected
        )


def number(device: Gpu | MigDevice) -> int:
    return device.index if isinstance(device, Gpu) else device.gpu_index
