"""Whose sockets there are in kubelet's directory, and which of them mean that a plugin has gone."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from plugin.kubelet.deviceplugin import naming
from plugin.kubelet.deviceplugin.rivals import (
    STALE_SECONDS,
    Found,
    Known,
    Rivals,
    accepts_connections,
    step,
)

from .kubelet_fakes import KUBELET, FakeDirectory
from .virtual_time import run

FIRST, OTHER = (1, 1, 0), (1, 2, 0)
YOUNG, OLD = 0.0, STALE_SECONDS


def found(*, alive: bool = True, age: float = OLD, identity: tuple[int, int, int] = FIRST) -> Found:
    return Found(identity, alive, age)


def known(*, alive: bool = True, counts: bool = True) -> Known:
    return Known(FIRST, 5.0, alive, counts)


@pytest.mark.parametrize(
    ("before", "now", "deleted", "gone"),
    [
        # Still there, or new.
        (known(), found(), False, False),
        (None, found(), False, False),
        (None, found(alive=False, age=YOUNG), False, False),  # about to listen
        # Went.
        (known(), None, True, True),
        (known(), None, False, True),  # inotify may lose an event
        (known(), found(identity=OTHER), True, True),  # and came again
        (None, None, True, True),  # came and went between two looks
        # Was killed: its socket stays.
        (known(), found(alive=False), False, True),
        (known(alive=False), found(alive=False), False, True),  # never seen to listen
        (known(alive=False), found(alive=False, age=YOUNG), False, False),
        # That was taken note of already, or was so when we came.
        (known(alive=False, counts=False), found(alive=False), False, False),
        (known(alive=False, counts=False), None, True, False),
        # A new server on the same socket file is none that went.
        (known(alive=False, counts=False), found(), False, False),
    ],
)
def test_one_step(before: Known | None, now: Found | None, gone: bool, deleted: bool) -> None:  # noqa: FBT001 — a table's columns
    after, names = step(
        {"a.sock": before} if before else {},
        {"a.sock": now} if now else {},
        {"a.sock"} if deleted else set(),
        9.0,
    )
    assert names == (("a.sock",) if gone else ())
    assert set(after) == ({"a.sock"} if now else set())


def test_a_death_counts_once_and_a_new_life_again() -> None:
    history = [found(), found(alive=False), found(alive=False), found(), found(alive=False)]
    state: dict[str, Known] = {}
    deaths = []
    for at, one in enumerate(history):
        state, gone = step(state, {"a.sock": one}, (), float(at))
        deaths.append(bool(gone))
    assert deaths == [False, True, False, False, True]
    assert state["a.sock"].since == 0.0


def test_before_the_first_look_nobody_can_have_gone() -> None:
    state, gone = step(None, {"dead.sock": found(alive=False), "live.sock": found()}, {"x"}, 1.0)
    assert gone == ()
    assert [one.counts for _, one in sorted(state.items())] == [False, True]
    assert step(state, {"live.sock": found()}, {"dead.sock"}, 2.0)[1] == ()


@pytest.mark.parametrize(
    ("name", "resource", "serves"),
    [
        ("nvidia-gpu.sock", "nvidia.com/gpu", True),
        ("nvidia-gpu.sock", "nvidia.com/mig-1g.5gb", False),
        ("nvidia-mig-1g.5gb.sock", "nvidia.com/mig-1g.5gb", True),
        ("nvidia.com-mig-1g.5gb-0123abcd-12.sock", "nvidia.com/mig-1g.5gb", True),
        ("nvidia.com-mig-1g.5gb-0123abcd-12.sock", "nvidia.com/gpu", False),
        ("nvidiaGPU-1623.sock", "nvidia.com/gpu", None),
        ("rdma_shared.sock", "nvidia.com/gpu", None),
        ("nvidia.com-gpu-0123abcd.sock", "nvidia.com/gpu", None),
    ],
)
def test_what_a_name_says(name: str, resource: str, serves: bool | None) -> None:  # noqa: FBT001 — a table's column
    assert naming.serves(name, resource) is serves


def test_our_own_names() -> None:
    first, second = naming.new_name("nvidia.com/gpu"), naming.new_name("nvidia.com/gpu")
    assert first != second
    assert all(map(naming.is_of_this_process, (first, second)))
    assert naming.serves(first, "nvidia.com/gpu")
    other = "nvidia.com-gpu-0123abcd-1.sock"
    assert (naming.is_of_this_process(other), naming.is_of_this_plugin(other)) == (False, True)
    assert not naming.is_of_this_plugin("nvidia-gpu.sock")


def test_only_a_refusal_is_a_death() -> None:
    with tempfile.TemporaryDirectory(prefix="mdp-") as folder:
        path = Path(folder) / "a.sock"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            assert not accepts_connections(path)  # bound, and nobody listens
            listening.listen(0)
            for _ in range(5):  # whose queue is full soon, and which lives
                assert accepts_connections(path)
        assert not accepts_connections(path)
        assert not accepts_connections(path.with_name("missing.sock"))
        assert accepts_connections(Path("/" + "x" * 200))  # cannot be asked


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("nvidia.com-gpu-0123abcd-1.sock", True),
        ("nvidia-gpu.sock", False),
        ("plugin.sock", False),
        (KUBELET, False),
    ],
)
def test_only_what_dead_processes_of_ours_left_is_removed(name: str, *, removed: bool) -> None:
    async def scene() -> None:
        directory = FakeDirectory()
        age = 0.0
        directory.create(name)
        directory.dead.add(name)
        rivals = Rivals(
            directory, KUBELET, lambda: (), accepts=directory.accepts, wall_clock=lambda: age
        )
        rivals.poll()
        assert directory.exists(name)  # so young that it may be about to listen
        age = STALE_SECONDS
        rivals.poll()
        assert directory.exists(name) != removed
        directory.dead.clear()
        directory.create(name)
        rivals.poll()
        assert directory.exists(name)

    run(scene())
