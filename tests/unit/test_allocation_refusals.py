"""Refused allocations, and properties of every request."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.advertise.advertisement import advertise
from plugin.core.allocation import (
    MOST_IDS,
    allocate,
)
from plugin.core.reasons import Reason
from plugin.core.settings import (
    DeviceIdStrategy,
    DeviceListStrategy,
    MigStrategy,
    Settings,
    SharedResource,
    Sharing,
)
from plugin.core.state import Snapshot
from plugin.errors import DeviceUnavailable, InvalidRequest, RequestError, UnknownDevice

from .builders import gpu, ids, mig_device, mig_gpu, node, snapshot

GPU, ONE, TWO = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/mig-2g.10gb"
A, B, C = "MIG-0-7-0", "MIG-0-8-0", "MIG-1-7-0"
NODE = node(mig_gpu(0, "1g.5gb", "1g.5gb", "2g.10gb"), mig_gpu(1, "1g.5gb"), gpu(2))
MIXED = Settings(mig_strategy=MigStrategy.MIXED)


# ---- refusals

SICK = mig_device(0, 0, error="reading its memory: Unknown Error")
SICK_NODE = node(gpu(0, SICK, mig_device(0, 1, "")), gpu(1, mig=True))


@pytest.mark.parametrize(
    ("state", "resource", "requested", "error", "expected"),
    [
        pytest.param(NODE, ONE, [], InvalidRequest, ("no device ids",), id="nothing"),
        pytest.param(NODE, ONE, [A, A], InvalidRequest, (A, "more than once"), id="twice"),
        pytest.param(
            NODE, ONE, ["MIG-x"], UnknownDevice, ("MIG-x", "no device", "devices"), id="unknown id"
        ),
        pytest.param(
            NODE, ONE, [A, "MIG-x"], UnknownDevice, ("MIG-x",), id="one unknown id among others"
        ),
        pytest.param(
            NODE, "nvidia.com/other", ["MIG-x"], UnknownDevice, ("MIG-x",), id="unknown resource"
        ),
        pytest.param(
            NODE,
            TWO,
            [A],
            DeviceUnavailable,
            (A, "now advertised as", ONE),
            id="of another resource",
        ),
        pytest.param(
            SICK_NODE,
            ONE,
            [SICK.uuid],
            DeviceUnavailable,
            (SICK.uuid, "unhealthy", "Unknown Error"),
            id="unhealthy",
        ),
        pytest.param(
            SICK_NODE,
            ONE,
            ["MIG-0-8-0"],
            DeviceUnavailable,
            ("MIG-0-8-0", "withdrawn", "profile"),
            id="withheld",
        ),
        pytest.param(
            SICK_NODE,
            GPU,
            ["GPU-1"],
            DeviceUnavailable,
            ("GPU-1", "withdrawn", "MIG"),
            id="withheld GPU",
        ),
    ],
)
def test_refusal(
    state: Any, resource: str, requested: list[str], error: type[RequestError], expected: list[str]
) -> None:
    with pytest.raises(error) as refusal:
        allocate(resource, [requested], snapshot(state))
    for word in (resource, *expected):
        assert word in str(refusal.value)


def test_one_bad_container_refuses_the_request() -> None:
    with pytest.raises(UnknownDevice):
        allocate(ONE, [[A], ["MIG-x"]], snapshot(NODE))


def test_a_verdict_makes_a_device_unavailable() -> None:
    state = Snapshot(
        1,
        MIXED,
        NODE,
        advertise(NODE, MIXED, {A: (Reason("xid-79", "XID 79: it has fallen off the bus"),)}),
    )
    with pytest.raises(DeviceUnavailable, match=f"{A} is unhealthy: XID 79"):
        allocate(ONE, [[A]], state)


def test_shares_can_be_limited_to_one() -> None:
    limited = replace(
        MIXED, sharing=Sharing((SharedResource(ONE, 4),), fail_requests_greater_than_one=True)
    )
    state = snapshot(NODE, limited)
    assert allocate(ONE, [[f"{A}::0"], [f"{A}::1"]], state)
    with pytest.raises(InvalidRequest, match="2 were asked for and the maximum is 1"):
        allocate(ONE, [[f"{A}::0", f"{C}::1"]], state)


# ---- properties


@given(
    requested=st.lists(st.sampled_from([A, B, C]), min_size=1, unique=True),
    lists=st.lists(st.sampled_from(DeviceListStrategy), min_size=1, unique=True),
    names=st.sampled_from(DeviceIdStrategy),
    seed=st.randoms(use_true_random=False),
)
def test_the_answer_depends_on_nothing_but_the_set_of_ids(
    requested: list[str],
    lists: list[DeviceListStrategy],
    names: DeviceIdStrategy,
    seed: random.Random,
) -> None:
    state = snapshot(
        NODE, replace(MIXED, device_list_strategy=tuple(lists), device_id_strategy=names)
    )
    shuffled = seed.sample(requested, len(requested))
    (answer,) = allocate(ONE, [requested], state)
    assert allocate(ONE, [requested], state) == (answer,)
    assert allocate(ONE, [shuffled], state) == (answer,)
    assert set(answer.envs["CUDA_VISIBLE_DEVICES"].split(",")) == set(requested)


@given(st.lists(st.sampled_from([A, B, C, "GPU-2", "MIG-0-9-0", "", "MIG-x"])))
def test_whatever_is_asked_for_is_given_exactly_or_refused(requested: list[str]) -> None:
    state = snapshot(NODE)
    listed = ids(state.advertisement.resources[ONE])
    try:
        (answer,) = allocate(ONE, [requested], state)
    except RequestError:
        assert (
            not requested
            or len(set(requested)) < len(requested)
            or not set(requested) <= set(listed)
        )
    else:
        assert answer.envs["NVIDIA_VISIBLE_DEVICES"].split(",") == [
            name for name in listed if name in requested
        ]


def test_a_request_of_forty_thousand_ids_is_linear() -> None:
    """Counted in steps, not in seconds: an id compares itself when it is looked for in a list."""

    class Id(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Id.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    many = [Id(f"MIG-{number}") for number in range(MOST_IDS - 1)]
    with pytest.raises(InvalidRequest, match="id MIG-17 is named more than once"):
        allocate(ONE, [[*many, Id("MIG-17")]], snapshot(node(mig_gpu(0, "1g.5gb"))))
    assert Id.compared < 10 * MOST_IDS


@pytest.mark.parametrize("containers", [1, 2, 1000])
def test_no_request_has_more_ids_than_any_node(containers: int) -> None:
    ids = ["MIG-0-7-0"] * ((MOST_IDS + containers) // containers)
    with pytest.raises(InvalidRequest, match=f"a request may have {MOST_IDS}"):
        allocate(ONE, [ids] * containers, snapshot(node(mig_gpu(0, "1g.5gb"))))


@pytest.mark.parametrize("twice", [True, False])
def test_an_id_is_shortened_where_it_is_repeated(*, twice: bool) -> None:
    ids = ["x" * 100_000] * (2 if twice else 1)
    with pytest.raises((InvalidRequest, UnknownDevice)) as refused:
        allocate(ONE, [ids], snapshot(node(mig_gpu(0, "1g.5gb"))))
    assert "x" * 64 + "… (100000 characters)" in str(refused.value)
    assert len(str(refused.value)) < 400
