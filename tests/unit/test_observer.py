"""The evidence for complete answers of pod resources: checkpoint, socket, own pod; and drain."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.api import deviceplugin_v1beta1_pb2 as device_pb
from plugin.commands.control import Notices, waiting_for
from plugin.core.holders import Holdings, answered
from plugin.core.settings import Settings
from plugin.core.view import Holder
from plugin.kubelet.podresources import checkpoint
from plugin.kubelet.podresources.observer import Observer, own_pod
from plugin.loops.aside import Aside
from plugin.sim.kubelet.checkpoint import save
from plugin.sim.kubelet.pods import Assignment

from .podresources_peer import Peer, pod

# ---- kubelet's checkpoint


def entry(**devices: list[str]) -> dict[str, Any]:
    return {"PodUID": "u", "ContainerName": "main", "ResourceName": "r", "DeviceIDs": devices}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"Data": {"PodDeviceEntries": None, "RegisteredDevices": {}}, "Checksum": 1}, set()),
        (
            {"Data": {"PodDeviceEntries": [entry(**{"-1": ["a"], "0": ["b", "c"]}), entry()]}},
            {"a", "b", "c"},
        ),
        ({"Data": {"PodDeviceEntries": [{"DeviceIDs": ["a"]}, {"DeviceIDs": None}]}}, {"a"}),
        ({"Data": {}}, None),
        ({"Data": {"PodDeviceEntries": [{}]}}, None),
        ({"Data": {"PodDeviceEntries": [3]}}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_checkpoint_names_what_is_allocated(
    tmp_path: Path, document: object, expected: set[str] | None
) -> None:
    path = tmp_path / checkpoint.NAME
    path.write_text(json.dumps(document))
    names = checkpoint.allocated_ids(path)
    assert (None if names is None else set(names)) == expected


def test_a_checkpoint_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    assert checkpoint.allocated_ids(path) is None
    path.write_bytes(b"\xff{")
    assert checkpoint.allocated_ids(path) is None
    path.unlink()
    os.mkfifo(path)  # opening it for reading would wait for a writer
    assert checkpoint.allocated_ids(path) is None
    path.unlink()
    path.mkdir()
    assert checkpoint.allocated_ids(path) is None


def test_the_stand_ins_checkpoint_is_read_as_kubelets(tmp_path: Path) -> None:
    held = Assignment("ml/a", "main", "r", {"a": 0, "b": -1}, device_pb.ContainerAllocateResponse())
    save(tmp_path, [held], {"r": ["a", "b", "c"]})
    assert checkpoint.allocated_ids(tmp_path / checkpoint.NAME) == frozenset("ab")


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path / "kubelet.sock", [pod("a", main=[["MIG-1"], ["MIG-2"]]), pod("ours")])


@pytest.mark.asyncio
async def test_an_answer_tells_which_kubelet_gave_it(peer: Peer) -> None:
    async with peer.listening():
        peer.wall = peer.socket.stat().st_ctime + 30
        first = await peer.observer(own_pod="ours").ask(Holdings())
        again = await peer.observer().ask(Holdings())
    async with peer.listening():
        other = await peer.observer().ask(Holdings())
        peer.wall = 0.0  # a clock that was put back
        assert (await peer.observer().ask(Holdings())).up == 0.0
    assert (first.at, first.pods, first.own) == (7.0, 2, True)
    assert first.up == pytest.approx(30)
    assert (again.own, again.kubelet) == (False, first.kubelet)
    assert other.kubelet not in {None, first.kubelet}


@pytest.mark.asyncio
async def test_a_kubelet_that_is_replaced_while_it_answers_is_none(peer: Peer) -> None:
    peer.goes = True
    async with peer.listening():
        assert (await peer.observer().ask(Holdings())).kubelet is None


@pytest.mark.asyncio
async def test_the_checkpoint_is_read_only_when_it_decides(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    path.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry(x=["MIG-1", "MIG-2::3"])]}}))
    observer = peer.observer(checkpoint=path)
    async with peer.listening():
        young = await observer.ask(Holdings())
        assert young.checkpoint == frozenset({"MIG-1", "MIG-2::3"})
        part = await observer.ask(Holdings(), ["MIG-2"])
        assert (set(part.holders), part.checkpoint) == ({"MIG-2"}, frozenset({"MIG-2::3"}))
        believed = replace(answered(Holdings(), young), trusted=True)
        assert (await observer.ask(believed)).checkpoint is None
        peer.wall = peer.socket.stat().st_ctime + 3600
        assert (await observer.ask(Holdings())).checkpoint is None


@pytest.mark.asyncio
async def test_a_checkpoint_that_hangs_says_nothing(peer: Peer, tmp_path: Path) -> None:
    path, aside, answers = tmp_path / checkpoint.NAME, Aside("x", 0.05), threading.Event()
    path.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry(x=["MIG-1"])]}}))
    observer = peer.observer(checkpoint=path, aside=aside)
    async with peer.listening():
        with pytest.raises(TimeoutError):
            await aside.call(answers.wait)
        assert (await observer.ask(Holdings())).checkpoint is None
        answers.set()
        assert (await observer.ask(Holdings())).checkpoint == frozenset({"MIG-1"})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(kubelet_socket="/k/dp/kubelet.sock"), Path("/k/dp/kubelet_internal_checkpoint")),
        (Settings(kubelet_socket=""), None),
    ],
)
def test_the_checkpoint_lies_beside_kubelets_socket(
    settings: Settings, expected: Path | None
) -> None:
    assert Observer.of(settings).checkpoint == expected


def test_our_own_pod_is_named_or_is_the_host() -> None:
    assert own_pod({"POD_NAME": "plugin-x"}) == "plugin-x"
    assert own_pod({}) == socket.gethostname()


# ---- what drain says

A, B = Holder("ml", "a", "main"), Holder("ml", "b", "main")


@pytest.mark.parametrize(
    ("known", "problem", "expected"),
    [
        (Holdings(trusted=True), "", ""),
        (Holdings(trusted=True, holders={"x": (A,)}), "", "waiting for 1 container: ml/a (main)"),
        (
            Holdings(trusted=True, holders={"x": (A, B), "y": (A,)}),
            "",
            "waiting for 2 containers: ml/a (main), ml/b (main)",
        ),
        (Holdings(), "", "waiting for kubelet to list its pods again"),
        (
            Holdings(holders={"x": (A,)}),
            "",
            "waiting for kubelet to list its pods again; last known: ml/a (main)",
        ),
        (
            Holdings(trusted=True, silent=True, holders={"x": (A,)}),
            "nobody there",
            "waiting, pod resources not answering: nobody there; last known: ml/a (main)",
        ),
        (
            Holdings(trusted=True, handed_out={"x": 1.0}),
            "",
            "waiting for kubelet to list the container that was given it a moment ago",
        ),
    ],
)
def test_drain_says_what_it_waits_for(known: Holdings, problem: str, expected: str) -> None:
    assert waiting_for(known, problem) == expected


def test_what_is_waited_for_is_said_again_now_and_then() -> None:
    notices = Notices()
    said = [(now, notices.due("waiting for 1", float(now))) for now in range(0, 200, 5)]
    assert [entry for entry in said if entry[1]] == [
        (0, "waiting for 1"),
        (10, "still waiting for 1"),
        (70, "still waiting for 1"),
        (130, "still waiting for 1"),
        (190, "still waiting for 1"),
    ]
    assert notices.due("waiting for 2", 201) == "waiting for 2"
    assert notices.due("waiting for 1", 202) == "waiting for 1"
