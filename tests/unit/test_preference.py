"""Preferred allocation: tables of small nodes, and what holds for any node."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.advertise.listed import Listed
from plugin.core.inventory.model import Gpu, MigDevice, Placement
from plugin.core.preference import Preference, prefer
from plugin.core.reasons import Reason
from plugin.core.settings import Policy

from .builders import gpu, ids, listing, mig_device

PACKED, DISTRIBUTED = Policy.PACKED, Policy.DISTRIBUTED


def ones(index: int, starts: Iterable[int] = range(7), numa: int | None = 0) -> list[MigDevice]:
    """1g.5gb devices on one GPU."""
    return [mig_device(index, start, numa=numa) for start in starts]


def name(index: int, start: int) -> str:
    return mig_device(index, start).uuid


def names(**on_gpu: Iterable[int]) -> list[str]:
    """``names(g0=(1, 2))``: the ids at slices 1 and 2 of GPU 0."""
    return [name(int(key[1:]), start) for key, starts in on_gpu.items() for start in starts]


def choose(
    listed: Sequence[Listed],
    available: Collection[str],
    size: int,
    *,
    must: Collection[str] = (),
    policy: Policy = PACKED,
    shared: Policy = DISTRIBUTED,
) -> Preference:
    return prefer(listed, available, must, size, policy=policy, shared_policy=shared)


# ---- packed

TWO_GPUS = listing(ones(0) + ones(1))
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


# ---- odd input


SICK = tuple(
    replace(item, reasons=(Reason("xid-79", "XID 79"),)) if item.id == name(0, 0) else item
    for item in TWO_GPUS
)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(
    ("listed", "available", "must", "size", "expected", "warning"),
    [
        pytest.param(TWO_GPUS, [], [], 0, [], None, id="nothing of nothing"),
        pytest.param(
            TWO_GPUS, names(g0=[1]), [], -1, [], "although -1 are wanted", id="less than nothing"
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[1]),
            [],
            2,
            names(g0=[1]),
            "2 are wanted and 1 are available",
            id="too few",
        ),
        pytest.param(
            TWO_GPUS,
            [],
            names(g0=[1]),
            1,
            names(g0=[1]),
            None,
            id="must is not repeated in available",
        ),
        pytest.param(
            TWO_GPUS,
            [],
            names(g0=[1, 2]),
            1,
            names(g0=[1, 2]),
            "2 must be included although 1",
            id="more must than size",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[1, 1]),
            names(g0=[1, 1]),
            1,
            names(g0=[1]),
            None,
            id="ids named twice",
        ),
        pytest.param(
            TWO_GPUS,
            ["x", *names(g0=[1])],
            [],
            1,
            names(g0=[1]),
            "x for one",
            id="unknown: rather not",
        ),
        pytest.param(
            TWO_GPUS,
            ["x", *names(g0=[1])],
            [],
            2,
            [*names(g0=[1]), "x"],
            "x for one",
            id="unknown: if need be",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[1]),
            ["x"],
            2,
            ["x", *names(g0=[1])],
            "x for one",
            id="unknown: must",
        ),
        pytest.param((), ["y", "x"], [], 1, ["x"], "2 of the ids", id="the resource has gone"),
        pytest.param(
            SICK, names(g0=[0, 1]), [], 1, names(g0=[1]), name(0, 0), id="unhealthy: rather not"
        ),
        pytest.param(
            SICK, names(g0=[0]), [], 1, names(g0=[0]), name(0, 0), id="unhealthy: if need be"
        ),
        pytest.param(
            SICK,
            names(g0=[0, 1]),
            names(g0=[0]),
            1,
            names(g0=[0]),
            name(0, 0),
            id="unhealthy: must",
        ),
    ],
)
def test_odd_input_gets_a_best_effort_and_a_warning(
    policy: Policy,
    listed: Sequence[Listed],
    available: list[str],
    must: list[str],
    size: int,
    expected: list[str],
    warning: str | None,
) -> None:
    preference = choose(listed, available, size, must=must, policy=policy)
    assert sorted(preference.ids) == sorted(expected)
    if warning is None:
        assert preference.warnings == ()
    else:
        (said,) = preference.warnings
        assert warning in said


# ---- properties


@dataclass(frozen=True)
class Case:
    """A resource's list and a request for some of it."""

    listed: tuple[Listed, ...]
    available: list[str]
    must: list[str]
    size: int


@st.composite
def resources(draw: st.DrawFn, *, replicas: st.SearchStrategy[int]) -> tuple[Listed, ...]:
    devices: list[MigDevice | Gpu] = []
    for index in range(draw(st.integers(1, 6))):
        numa = draw(st.sampled_from([None, 0, 1]))
        if draw(st.booleans()):
            devices.append(gpu(index, numa=numa))
        else:
            devices += ones(
                index, draw(st.lists(st.integers(0, 6), unique=True, min_size=1).map(sorted)), numa
            )
    return listing(devices, draw(replicas))


@st.composite
def cases(draw: st.DrawFn, *, odd: bool = True, replicas: int = 3) -> Case:
    """`odd` requests name ids that are not there, twice, or unhealthy; others are as kubelet makes
    them.
    """
    listed = draw(resources(replicas=st.integers(1, replicas)))
    if odd:
        sick = draw(st.sets(st.sampled_from(ids(listed))))
        listed = tuple(
            replace(item, reasons=(Reason("xid-79", "sick"),)) if item.id in sick else item
            for item in listed
        )
        some = st.lists(st.sampled_from([*ids(listed), "x", "y", ""]), max_size=30)
        return Case(listed, draw(some), draw(some), draw(st.integers(-2, len(listed) + 4)))
    available = draw(st.lists(st.sampled_from(ids(listed)), unique=True, min_size=1))
    size = draw(st.integers(1, len(available)))
    must = draw(st.lists(st.sampled_from(available), unique=True, max_size=size))
    return Case(listed, available, must, size)


policies = st.sampled_from(Policy)


@given(cases(), policies, policies)
def test_any_answer_is_a_choice_of_what_was_offered(
    case: Case, policy: Policy, shared: Policy
) -> None:
    chosen = choose(
        case.listed, case.available, case.size, must=case.must, policy=policy, shared=shared
    ).ids
    offered = {*case.available, *case.must}
    assert len(set(chosen)) == len(chosen)
    assert set(case.must) <= set(chosen) <= offered
    assert len(chosen) == max(len(set(case.must)), min(case.size, len(offered)))


@given(cases(), policies, policies, st.randoms(use_true_random=False))
def test_the_order_of_the_ids_does_not_matter(
    case: Case, policy: Policy, shared: Policy, shuffle: random.Random
) -> None:
    other = [*case.available], [*case.must]
    for some in other:
        shuffle.shuffle(some)
    answer = choose(
        case.listed, case.available, case.size, must=case.must, policy=policy, shared=shared
    )
    assert (
        choose(case.listed, other[0], case.size, must=other[1], policy=policy, shared=shared)
        == answer
    )


@given(cases(), policies)
def test_a_doubtful_id_is_never_taken_while_a_good_one_is_left(case: Case, policy: Policy) -> None:
    chosen = {
        *choose(case.listed, case.available, case.size, must=case.must, policy=policy).ids
    } - {*case.must}
    good = {item.id for item in case.listed if item.healthy}
    if chosen - good:
        assert not good.intersection(case.available) - chosen - {*case.must}


@given(cases(odd=False))
def test_packed_uses_the_fewest_gpus(case: Case) -> None:
    preference = choose(case.listed, case.available, case.size, must=case.must, shared=PACKED)
    assert preference.warnings == ()
    gpu_of = {item.id: number(item.device) for item in case.listed}
    held = Counter(gpu_of[offered] for offered in case.available)
    used = {gpu_of[needed] for needed in case.must}
    missing = case.size - sum(held[index] for index in used)
    fewest = len(used)
    for count in sorted((held[index] for index in held if index not in used), reverse=True):
        if missing > 0:
            missing -= count
            fewest += 1
    assert len({gpu_of[chosen] for chosen in preference.ids}) == fewest


@given(cases(odd=False, replicas=1))
def test_packed_on_one_gpu_spares_the_longest_runs_elsewhere(case: Case) -> None:
    """Where one GPU is enough, no other that is enough would have left longer runs on the rest."""
    chosen = choose(case.listed, case.available, case.size).ids
    device_of = {item.id: item.device for item in case.listed}
    held = Counter(number(device_of[offered]) for offered in case.available)
    taken = {number(device_of[name]) for name in chosen}
    if len(taken) == 1:
        runs = {
            index: longest(
                [
                    device_of[offered]
                    for offered in case.available
                    if number(device_of[offered]) == index
                ]
            )
            for index in held
        }
        assert runs[taken.pop()] == min(runs[index] for index in held if held[index] >= case.size)


@given(st.integers(1, 8), st.integers(1, 7), st.data())
def test_distributed_keeps_equal_gpus_within_one(gpus: int, each: int, data: st.DataObject) -> None:
    listed = listing(
        [device for index in range(gpus) for device in ones(index, range(each), numa=index // 4)]
    )
    size = data.draw(st.integers(0, len(listed)))
    gpu_of = {item.id: number(item.device) for item in listed}
    loads = Counter(dict.fromkeys(range(gpus), 0))
    loads.update(
        gpu_of[chosen] for chosen in choose(listed, ids(listed), size, policy=DISTRIBUTED).ids
    )
    assert max(loads.values()) - min(loads.values()) <= 1


@given(cases(odd=False))
def test_distributed_never_takes_from_a_gpu_while_a_less_loaded_one_has_ids(case: Case) -> None:
    total = Counter(number(item.device) for item in case.listed)
    gpu_of = {item.id: number(item.device) for item in case.listed}
    chosen = choose(
        case.listed,
        case.available,
        case.size,
        must=case.must,
        policy=DISTRIBUTED,
        shared=DISTRIBUTED,
    ).ids
    taken = Counter(gpu_of[name] for name in chosen if name not in case.must)
    left = Counter(gpu_of[name] for name in case.available if name not in chosen)
    load = {index: (total[index] - left[index]) / total[index] for index in total}
    before_last = {index: load[index] - 1 / total[index] for index in taken}
    for index in taken:
        assert all(before_last[index] <= load[other] + 1e-9 for other in left if left[other])


def number(device: Gpu | MigDevice) -> int:
    return device.index if isinstance(device, Gpu) else device.gpu_index


def longest(devices: Sequence[Gpu | MigDevice]) -> int:
    """Memory slices of the longest run of adjacent devices on a GPU."""
    free = [False] * 9
    for device in devices:
        placement = Placement(0, 8) if isinstance(device, Gpu) else device.placement
        assert placement is not None
        free[placement.start : placement.end] = [True] * placement.size
    return max(len(run) for run in "".join("x" if slot else " " for slot in free).split())
