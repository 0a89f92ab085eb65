"""What ``NODE[:GEOMETRY]`` means, and how bad ones are refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.errors import SimulationError
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.engine import parse_node
from plugin.sim.hardware.geometry import parse_fleet, parse_geometry
from tests.simulated import scan


def profiles(node: str) -> list[dict[str, int] | None]:
    """Devices per GPU by profile, ``None`` for MIG off."""
    gpus = scan(parse_node(node)).gpus
    return [
        dict(Counter(d.profile for d in gpu.mig_devices)) if gpu.mig_enabled else None
        for gpu in gpus
    ]


@pytest.mark.parametrize(
    ("node", "cards"),
    [
        ("p4d.24xlarge", ["a100-40gb"] * 8),
        ("a30-server", ["a30-24gb"] * 4),
        ("h100-80gb", ["h100-80gb"]),
        ("2xa100-40gb+1xa30-24gb", ["a100-40gb", "a100-40gb", "a30-24gb"]),
        ("a30-server + g4dn.12xlarge", ["a30-24gb"] * 4 + ["t4-16gb"] * 4),
    ],
)
def test_fleets(node: str, cards: list[str]) -> None:
    assert [card.key for card in parse_fleet(node)] == cards


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("2xa100-40gb", [None, None]),
        ("2xa100-40gb:mig-off", [None, None]),
        ("2xa100-40gb:all-disabled", [None, None]),
        ("2xa100-40gb:all-enabled", [{}, {}]),
        ("1xa100-40gb:all-1g.5gb", [{"1g.5gb": 7}]),
        ("1xa100-40gb:all-1g.5gb.me", [{"1g.5gb+me": 1}]),
        ("1xa100-40gb:all-1g.5gb+me", [{"1g.5gb+me": 1}]),
        ("1xa100-40gb:all-2g.10gb", [{"2g.10gb": 3}]),
        ("1xa100-40gb:all-1c.3g.20gb", [{"1c.3g.20gb": 6}]),
        ("1xa100-40gb:all-balanced", [{"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}]),
        ("1xh200-141gb:all-balanced", [{"1g.18gb": 2, "2g.35gb": 1, "3g.71gb": 1}]),
        ("1xa30-24gb:all-balanced", [{"1g.6gb": 2, "2g.12gb": 1}]),
        ("1xa100-40gb+1xt4-16gb:all-3g.20gb", [{"3g.20gb": 2}, None]),
        (
            "4xa100-40gb:0=1g.5gb*7;1=3g.20gb,2g.10gb;2-2=on",
            [{"1g.5gb": 7}, {"3g.20gb": 1, "2g.10gb": 1}, {}, None],
        ),
        (
            "3xa100-40gb:0-1=balanced;2=off",
            [{"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}] * 2 + [None],
        ),
        ("1xa100-40gb:0=1c.3g.20gb*3", [{"1c.3g.20gb": 3}]),
        ("1xa100-40gb+1xa30-24gb:0=1g.10gb*4;1=1g.6gb.me", [{"1g.10gb": 4}, {"1g.6gb+me": 1}]),
    ],
)
def test_geometries(node: str, expected: list[dict[str, int] | None]) -> None:
    assert profiles(node) == expected


def test_compute_instances_of_one_list_fill_one_gpu_instance() -> None:
    (gpu,) = parse_node("1xa100-40gb:0=1c.3g.20gb*3").gpus
    assert [[ci.slices for ci in instance.compute] for instance in gpu.instances] == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("", ["no node", "p4d.24xlarge:all-1g.5gb"]),
        (":all-1g.5gb", ["no node"]),
        ("p4d", ["unknown node 'p4d'", "p4d.24xlarge", "a100-40gb"]),
        ("2xa100-40gb+foo", ["unknown node 'foo'", "g4dn.12xlarge"]),
        ("0xa100-40gb", ["unknown node", "count of 1 to 32"]),
        ("5xp4d.24xlarge", ["unknown node"]),
        ("30xa100-40gb+3xa30-24gb", ["33 GPUs", "at most 32"]),
        ("p4d.24xlarge:all-9g.5gb", ["'9g.5gb' is unknown on a100-40gb", "1g.5gb+me", "7g.40gb"]),
        ("p4d.24xlarge:all-2c.2g", ["unknown", "2g.10gb"]),
        ("p4d.24xlarge:all-4c.3g.20gb", ["'4c.3g.20gb' is unknown", "1c, 2c, 3c"]),
        ("1xa100-40gb+1xa30-24gb:all-1g.5gb", ["unknown on a30-24gb", "1g.6gb"]),
        ("p4d.24xlarge:balanced", ["unknown geometry 'balanced'", "all-balanced", "mig-off"]),
        ("p4d.24xlarge:8=1g.5gb", ["'8=1g.5gb'", "0-7"]),
        ("p4d.24xlarge:3-1=off", ["'3-1=off'"]),
        ("p4d.24xlarge:0=off;x=off", ["bad entry 'x=off'"]),
        ("p4d.24xlarge:0=off;1", ["bad entry '1'"]),
        ("p4d.24xlarge:0-3=off;2=1g.5gb", ["names GPU 2 twice"]),
        ("p4d.24xlarge:0=1g.5gb*x", ["bad profile '1g.5gb*x' for GPU 0"]),
        ("999999999xa100-40gb", ["unknown node", "count of 1 to 32"]),
        (f"{'9' * 5000}xa100-40gb", ["unknown node", "count of 1 to 32"]),
        (f"1xa100-40gb:0-{'9' * 5000}=off", ["bad entry '0-999", "GPU-GPU=off"]),
        ("1xa100-40gb:0=1g.5gb*999999999", ["bad profile '1g.5gb*999999999'"]),
        ("1xa100-40gb:0=1g.5gb*999", ["cannot be placed on GPU 0"]),
        ("x" * 10**6, ["unknown node 'xxx", "a100-40gb"]),
        (f"1xa100-40gb:{'x' * 10**6}", ["unknown geometry 'xxx", "all-balanced"]),
        (f"1xa100-40gb:all-{'x' * 10**6}", ["profile 'xxx", "1g.5gb+me"]),
        ("p4d.24xlarge:0=1g.5gb,,1g.5gb", ["bad profile ''"]),
        ("g4dn.12xlarge:0=1g.5gb", ["GPU 0 (t4-16gb) has no MIG"]),
        ("p4d.24xlarge:2=3g.20gb*2,2g.10gb", ["cannot be placed on GPU 2", "10 memory slices"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(node: str, expected: list[str]) -> None:
    with pytest.raises(SimulationError) as refused:
        parse_node(node)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 2000
    for word in expected:
        assert word in message


@given(text=st.text(alphabet="01279-=;,*gcb.m+e all offnbd", max_size=20))
def test_any_text_is_a_geometry_or_a_simulation_error(text: str) -> None:
    cards = [catalog().cards["a100-40gb"], catalog().cards["t4-16gb"]]
    try:
        wanted = parse_geometry(text, cards)
    except SimulationError:
        return
    assert len(wanted) == len(cards)
    assert wanted[1] is None
