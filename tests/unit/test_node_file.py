"""Nodes from a file: a recording is the node again, other cards can be simulated, and whatever else
a file holds is refused in one line.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.cli import main
from plugin.core.advertise.advertisement import advertise
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.errors import SimulationError
from plugin.sim.hardware import recording
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.engine import SimNode, parse_node
from tests.simulated import scan

MIXED = Settings(mig_strategy=MigStrategy.MIXED)
CAPABLE = [key for key, card in catalog().cards.items() if card.mig_capable]


def record(node: SimNode) -> dict[str, Any]:
    """What ``devices --output json`` prints of it."""
    inventory = scan(node)
    made = document(Snapshot(0, MIXED, inventory, advertise(inventory, MIXED)), "scan")
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def written(folder: Path, content: object) -> str:
    path = folder / "node.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


# ---- recordings


@pytest.mark.parametrize(
    "node",
    [
        *(f"2x{key}:all-balanced" for key in CAPABLE),
        *(f"1x{key}:mig-off" for key in catalog().cards),
        "2xa100-40gb+1xt4-16gb:0=1c.3g.20gb*3,1g.5gb+me;1=on",
        "p5.48xlarge:0=1c.2g.20gb*2,4g.40gb;1-3=off;4-7=1g.10gb*7",
    ],
)
def test_a_recording_is_the_node_again(node: str, tmp_path: Path) -> None:
    recorded = record(parse_node(node))
    replayed = parse_node(written(tmp_path, recorded))
    assert record(replayed) == recorded
    assert replayed.notes == ()


def test_an_instance_without_compute_instances_is_there_again(tmp_path: Path) -> None:
    node = parse_node("1xa100-40gb:0=1g.5gb")
    node.create_gi(0, "3g.20gb")
    recorded = record(node)
    assert [each["profile"] for each in recorded["gpus"][0]["emptyInstances"]] == ["3g.20gb"]
    replayed = parse_node(written(tmp_path, recorded))
    assert record(replayed) == recorded
    assert replayed.notes == ()


def test_what_was_broken_is_broken_again(tmp_path: Path) -> None:
    node = parse_node("3xa100-40gb:all-1g.5gb")
    node.faults.remove_node("/dev/nvidia1")
    node.faults.remove_node("/dev/nvidia-uvm-tools")
    recorded = record(node)
    recorded["gpus"][2]["reasons"] = [{"code": "gpu-lost", "text": "gone"}]
    recorded["gpus"][0]["migDevices"][0]["reasons"] = [{"code": "xid-109", "text": "XID 109"}]
    replayed = parse_node(written(tmp_path, recorded))
    assert replayed.faults.removed == {"/dev/nvidia1", "/dev/nvidia-uvm-tools"}
    assert [gpu.lost for gpu in replayed.gpus] == [False, False, True]
    assert len(replayed.notes) == 1
    assert "not replayed: xid-109" in replayed.notes[0]


def test_a_pending_mode_minors_and_addresses_are_those_recorded(tmp_path: Path) -> None:
    node = parse_node("2xa100-40gb")
    node.set_mig_mode(0, on=True)
    recorded = record(node)
    for gpu, (minor, bus) in zip(
        recorded["gpus"], ((3, "0001:3b:00.0"), (0, "0000:86:00.0")), strict=True
    ):
        gpu["minor"], gpu["pciBusId"] = minor, bus
        gpu["nodes"] = [f"/dev/nvidia{minor}"]
    replayed = record(parse_node(written(tmp_path, recorded)))
    assert replayed["gpus"] == recorded["gpus"]
    assert replayed["gpus"][0]["mig"] == {"current": False, "pending": True}


def test_a_geometry_replaces_the_recorded_one(tmp_path: Path) -> None:
    recorded = record(parse_node("1xa100-40gb:all-1g.5gb"))
    replayed = record(parse_node(f"{written(tmp_path, recorded)}:all-3g.20gb"))
    assert [device["profile"] for device in replayed["gpus"][0]["migDevices"]] == ["3g.20gb"] * 2
    assert replayed["gpus"][0]["uuid"] == recorded["gpus"][0]["uuid"]


@pytest.mark.parametrize(
    ("product", "capability", "memory", "note"),
    [
        ("NVIDIA A100-PCIE-40GB", "8.0", 40960, "is that of NVIDIA A100-SXM4-40GB"),
        ("NVIDIA X1000", "13.0", 40960, "is computed"),
        ("NVIDIA X1000", None, 40960, "is computed"),
    ],
)
def test_a_card_that_no_table_has(
    product: str, capability: str | None, memory: int, note: str, tmp_path: Path
) -> None:
    recorded = record(parse_node("1xa100-40gb:0=1g.5gb*3,1c.3g.20gb*2"))
    recorded["gpus"][0] |= {
        "product": product,
        "computeCapability": capability,
        "memoryMiB": memory,
    }
    replayed = parse_node(written(tmp_path, recorded))
    again = record(replayed)
    assert note in replayed.notes[0]
    shown = ("uuid", "profile", "gi", "ci", "placement", "memoryMiB", "resource", "nodes")
    assert [{key: device[key] for key in shown} for device in again["gpus"][0]["migDevices"]] == [
        {key: device[key] for key in shown} for device in recorded["gpus"][0]["migDevices"]
    ]
    assert again["gpus"][0]["product"] == product
    assert again["gpus"][0]["memorySlices"] == 8


def test_a_profile_that_no_table_has(tmp_path: Path) -> None:
    recorded = record(parse_node("1xa100-40gb:0=3g.20gb"))
    recorded["gpus"][0]["migDevices"][0]["profile"] = "3g.20gb+gfx"
    replayed = parse_node(written(tmp_path, recorded))
    assert record(replayed)["gpus"][0]["migDevices"][0]["profile"] == "3g.20gb+gfx"
    assert [note.partition("; ") for note in replayed.notes] == [
        (
            "profile 3g.20gb+gfx of GPU 0 ('NVIDIA A100-SXM4-40GB') is in no table",
            "; ",
            "where it can lie is computed",
        )
    ]


def first(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["gpus"][0]["migDevices"][0]
    return found


@pytest.mark.parametrize(
    ("change", "devices", "note"),
    [
        pytest.param(lambda d: first(d).update(profile=None), 1, "profile was not", id="unread"),
        pytest.param(lambda d: first(d).update(placement=None), 2, "it is put at", id="unplaced"),
        pytest.param(
            lambda d: first(d).update(placement={"start": 4, "size": 4}), 1, "no place", id="taken"
        ),
        pytest.param(
            lambda d: first(d).update(placement={"start": 9, "size": 4}), 1, "no place", id="beside"
        ),
        pytest.param(lambda d: first(d).update(index=5), 2, "numbered anew", id="indices"),
        pytest.param(lambda d: d["gpus"][0].update(index=2), 2, "without gaps", id="a GPU's index"),
    ],
)
def test_what_is_not_as_recorded_is_noted(
    change: Callable[[dict[str, Any]], None], devices: int, note: str, tmp_path: Path
) -> None:
    recorded = record(parse_node("1xa100-40gb:all-3g.20gb"))
    change(recorded)
    replayed = parse_node(written(tmp_path, recorded))
    assert len(record(replayed)["gpus"][0]["migDevices"]) == devices
    assert any(note in each for each in replayed.notes), replayed.notes


def test_notes_are_shown_where_the_node_is_simulated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = record(parse_node("1xa100-40gb:all-3g.20gb"))
    recorded["gpus"][0]["product"] = "NVIDIA A100-PCIE-40GB"
    assert main(["devices", f"--simulate={written(tmp_path, recorded)}"]) == 0
    assert "NVIDIA A100-PCIE-40GB" in capsys.readouterr().out
    (difference,) = [vars(line)["difference"] for line in caplog.records]
    assert "is in no table" in difference


# ---- other cards


def test_cards_of_ones_own(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "cards": {"mine": {"twin_of": "a30-24gb", "product": "Mine"}},
            "node": "2xmine+a100-40gb",
        },
    )
    shown = record(parse_node(f"{path}:all-balanced"))
    assert [gpu["product"] for gpu in shown["gpus"]] == ["Mine"] * 2 + ["NVIDIA A100-SXM4-40GB"]
    assert [len(gpu["migDevices"]) for gpu in shown["gpus"]] == [3, 3, 4]


# ---- anything else


CARD = {"twin_of": "a30-24gb", "product": "Mine"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "describes no node"),
        ({}, "describes no node"),
        ({"cards": {}}, "describes no node"),
        ({"cards": {"mine": {}}, "node": "mine"}, "a card of .* has no"),
        ({"cards": {"mine": 1}, "node": "mine"}, "a card of .* is wrong"),
        ({"cards": {"mine": {**CARD, "memory_bytes": 1}}, "node": "other"}, "unknown node 'other'"),
        (
            {"cards": {"mine": {**CARD, "memory_slices": 2}}, "node": "mine"},
            "a placement of .* is not on mine",
        ),
        ({"gpus": []}, "0 GPUs"),
        ({"gpus": [{}] * 33}, "33 GPUs"),
        ({"gpus": [{}]}, "is no recording: no 'product'"),
        ({"gpus": [1]}, "is no recording"),
    ],
)
def test_what_describes_no_node_is_refused(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=said) as caught:
        parse_node(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    for path, said in (
        (tmp_path / "missing.json", "No such file"),
        (tmp_path, "not a regular file"),
        (pipe, "not a regular file"),
        (deep, "is not JSON"),
    ):
        with pytest.raises(SimulationError, match=said):
            parse_node(str(path))


def test_a_uuid_twice_is_refused(tmp_path: Path) -> None:
    recorded = record(parse_node("2xa100-40gb"))
    recorded["gpus"][1]["uuid"] = recorded["gpus"][0]["uuid"]
    with pytest.raises(SimulationError, match="twice"):
        parse_node(written(tmp_path, recorded))


RECORDED = record(parse_node("1xa100-40gb+1xt4-16gb:0=1g.5gb*2,3g.20gb"))
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
)


def paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at, *(path for key, inner in items for path in paths(inner, (*at, key)))]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([path for path in paths(RECORDED) if path]), JUNK)
def test_one_odd_value_is_refused_or_makes_a_node_that_can_be_read(
    path: tuple[Any, ...], value: object
) -> None:
    odd = copy.deepcopy(RECORDED)
    inner: Any = odd
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    try:
        found = recording.read(odd, "odd")
    except SimulationError:
        return
    node = SimNode([gpu.card for gpu in found.gpus])
    node.replay(found)
    scan(node)
