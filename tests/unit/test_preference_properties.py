"""Preferred allocation: properties of every answer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.advertise.listed import Listed
from plugin.core.inventory.model import Gpu, MigDevice, Placement
from plugin.core.reasons import Reason
from plugin.core.settings import Policy

from .builders import gpu, ids, listing
from .preference_nodes import DISTRIBUTED, PACKED, choose, ones

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
