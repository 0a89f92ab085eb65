"""Whose sockets there are in kubelet's directory, and which of them mean that a plugin has gone."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from pathlib import Path

import pytest

from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin import naming
from plugin.kubelet.deviceplugin.comparison import Difference, Listing, compare
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


# ---- plugins whose socket's name does not say what they serve

OURS = {"r": Listing(1, frozenset("ab"))}


@pytest.mark.parametrize(
    ("rounds", "lasts"),
    [
        # The seconds of each answer, what we list, and what kubelet counts.
        ([(0, OURS, "ab"), (60, OURS, "ab")], None),
        ([(0, OURS, "x")], False),
        ([(0, OURS, "x"), (9, OURS, "x")], False),
        ([(0, OURS, "x"), (10, OURS, "x")], True),
        ([(0, OURS, ""), (10, OURS, "")], True),
        ([(0, OURS, "abc"), (10, OURS, "b")], True),
        ([(0, OURS, "x"), (10, OURS, "x"), (20, OURS, "ab")], None),
        ([(0, OURS, "x"), (5, OURS, "ab"), (10, OURS, "x")], False),
        # Another list, or another registration, has its time; a rival that was seen stays one.
        ([(0, OURS, "x"), (10, {"r": Listing(1, frozenset("a"))}, "x")], False),
        ([(0, OURS, "x"), (10, {"r": Listing(2, frozenset("ab"))}, "x")], False),
        ([(0, OURS, "x"), (10, OURS, "x"), (15, {"r": Listing(1, frozenset("a"))}, "x")], True),
        # Not registered, nothing healthy to count.
        ([(0, OURS, "x"), (10, {}, "x")], None),
        ([(0, {"r": Listing(1, frozenset())}, ""), (10, OURS, "ab")], None),
    ],
)
def test_what_kubelet_counts_against_what_we_list(
    rounds: list[tuple[float, dict[str, Listing], str]],
    lasts: bool | None,  # noqa: FBT001 — a table's column
) -> None:
    found: dict[str, Difference] = {}
    for now, listed, counted in rounds:
        answer = {"r": frozenset(counted), "other": frozenset("z")} if counted else {}
        found = compare(found, listed, answer, now)
    assert {resource: one.lasts for resource, one in found.items()} == (
        {} if lasts is None else {"r": lasts}
    )


class Counting:
    """Kubelet's answers; ``asked`` counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.ids = frozenset("x")
        self.silent = False

    async def __call__(self) -> dict[str, frozenset[str]]:
        self.asked += 1
        if self.silent:
            raise KubeletError("no answer")
        return {"r": self.ids}


def test_a_rival_of_which_only_kubelet_knows(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        directory, kubelet = FakeDirectory(), Counting()
        rivals = Rivals(
            directory, KUBELET, lambda: OURS, accepts=directory.accepts, wall_clock=lambda: 0.0
        )

        async def later(seconds: float) -> str:
            await asyncio.sleep(seconds)
            rivals.poll()
            await rivals.compare(lambda: OURS, kubelet)
            return rivals.live("r")

        # Where every name says what is served, or nobody listens, kubelet is not asked.
        directory.create("nvidia-gpu.sock")
        directory.create("nvidia.com-gpu-0123abcd-1.sock")
        directory.create("dead.sock")
        directory.dead.add("dead.sock")
        assert [await later(15), await later(15), kubelet.asked] == ["", "", 0]

        directory.create("b.sock")
        directory.create("a.sock")
        assert [await later(15), await later(15)] == ["", "one of a.sock, b.sock"]
        assert kubelet.asked == 2
        kubelet.silent = True  # what cannot be asked stays as it was known
        assert await later(15) == "one of a.sock, b.sock"
        kubelet.silent = False
        for name in "cde":
            directory.create(f"{name}.sock")
        assert await later(15) == "one of a.sock, b.sock, c.sock, d.sock, …"
        kubelet.ids = OURS["r"].ids
        assert await later(15) == ""
        kubelet.ids = frozenset()
        assert [await later(15), (await later(15))[:6]] == ["", "one of"]
        for name in "abcde":
            directory.delete(f"{name}.sock")
        assert await later(0) == ""
        directory.create("f.sock")  # and what it was before says nothing about another one
        assert await later(1) == ""

    with caplog.at_level(logging.INFO, logger="plugin.kubelet.deviceplugin.rivals"):
        run(scene())
    told = [record for record in caplog.records if hasattr(record, "resource")]
    assert [(r.getMessage().split()[0], getattr(r, "socket", "")) for r in told] == [
        ("another", "one of a.sock, b.sock"),
        ("another", "one of a.sock, b.sock, c.sock, d.sock, …"),
        ("no", ""),
        ("another", "one of a.sock, b.sock, c.sock, d.sock, …"),
        ("no", ""),
    ]


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
