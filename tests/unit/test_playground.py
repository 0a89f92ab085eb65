"""What the playground decides: which pods run, what it suggests, where it lives."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.cli import main
from plugin.commands.folder import LONGEST_SOCKET, SOCKET_PATH_BYTES, own_folder, roots
from plugin.commands.suggestions import program, suggestions
from plugin.kubelet.deviceplugin.naming import new_name
from plugin.sim.kubelet.workload import LONGEST, SHORTEST, USED_SHARE, Workload

#: Where there is room on each machine.
LAST = Path("/tmp")  # noqa: S108 — only named

# ---- pods


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 20)),
    st.integers(0, 2**32),
    st.integers(1, 60),
)
def test_pods_come_and_go_and_never_take_more_than_their_share(
    allocatable: Mapping[str, int], seed: int, steps: int
) -> None:
    workload, rng = Workload(), Random(seed)  # noqa: S311 — pods need no secrets
    for now in map(float, range(steps)):
        for pod in workload.due(now):
            assert pod.ends <= now
            workload = workload.without(pod)
        new = workload.next_start(now, allocatable, rng)
        if new is not None:
            assert SHORTEST <= new.ends - now <= LONGEST
            assert f"{new.namespace}/{new.name}" not in workload.running
            workload = workload.with_started(new)
        for resource, count in allocatable.items():
            used = sum(pod.resource == resource for pod in workload.running.values())
            assert used < count * USED_SHARE + 1
            assert used <= count
    assert workload.started > 0 or not any(allocatable.values())
    assert not any(pod.ends <= steps - 1 for pod in workload.running.values())


def test_what_is_out_of_service_is_left_alone() -> None:
    rng = Random(1)  # noqa: S311 — as above
    assert Workload().next_start(0.0, {"a": 0}, rng) is None
    assert Workload().next_start(0.0, {}, rng) is None


# ---- suggestions


def gpu(index: int, *profiles: str, mig: bool = True) -> dict[str, Any]:
    return {
        "index": index,
        "mig": {"current": bool(profiles), "pending": bool(profiles)} if mig else None,
        "migDevices": [{"index": n, "profile": name} for n, name in enumerate(profiles)],
    }


MEANINGS = [
    "list the devices",
    "break one slice",
    "clear its fault",
    "keep new pods off a device",
    "let new pods in again",
    "a GPU falls off the bus",
    "bring it back; it is healthy again after a while",
    "empty a GPU, and let pods in again",
]
LABELLED = [
    "give each GPU another geometry once its pods have ended, by the Node's label",
    "the Node's labels, with the answer",
]
BACK = "and back, with eviction of the pods in the way"


@pytest.mark.parametrize(
    ("gpus", "meanings", "configurations"),
    [
        pytest.param(
            [gpu(0, "1g.5gb"), gpu(1, "1g.5gb")],
            [*MEANINGS, *LABELLED, BACK],
            ["mig.config=all-balanced", "all-1g.5gb"],
            id="slices",
        ),
        pytest.param(
            [gpu(0, "1g.5gb+me", "1g.5gb", "2g.10gb")],
            [*MEANINGS, *LABELLED, BACK],
            ["mig.config=all-1g.5gb", "all-balanced"],
            id="balanced already",
        ),
        pytest.param(
            [gpu(0, "3g.20gb"), gpu(1, mig=False)],
            [*MEANINGS, *LABELLED],
            ["mig.config=all-balanced"],
            id="no small slice, and a GPU without MIG",
        ),
        pytest.param([gpu(0)], [MEANINGS[0], *MEANINGS[3:]], [], id="MIG off"),
        pytest.param([gpu(0, mig=False)], [MEANINGS[0], *MEANINGS[3:]], [], id="no MIG at all"),
        pytest.param([], MEANINGS[:1], [], id="no GPU"),
    ],
)
def test_suggestions_fit_the_node(
    gpus: list[dict[str, Any]], meanings: list[str], configurations: list[str]
) -> None:
    found = suggestions(
        {"gpus": gpus}, "mdp", "/run/a b/control.sock", "/run/pods.sock", "mig.config"
    )
    assert [each.meaning for each in found] == meanings
    words = [word for each in found for word in shlex.split(each.command)]
    assert words.count("--control-socket=/run/a b/control.sock") == words.count("mdp")
    assert [word for word in words if "all-" in word] == configurations


@pytest.mark.parametrize(
    ("started_as", "on_path", "expected"),
    [
        ("/usr/bin/mig-device-plugin", "/usr/bin/mig-device-plugin", "mig-device-plugin"),
        (
            "/opt/x y/mig-device-plugin",
            "/usr/bin/mig-device-plugin",
            "'/opt/x y/mig-device-plugin'",
        ),
        ("/opt/mig-device-plugin", None, "/opt/mig-device-plugin"),
        ("/opt/plugin/__main__.py", None, "/usr/bin/python -m plugin"),
    ],
)
def test_commands_call_this_very_program(
    started_as: str, on_path: str | None, expected: str
) -> None:
    assert program(started_as, "/usr/bin/python", lambda _: on_path) == expected


# ---- its folder


def test_every_socket_has_room_in_every_root() -> None:
    assert len(new_name("nvidia.com/mig-1c.3g.20gb.me.all")) <= len(
        LONGEST_SOCKET.removeprefix("/device-plugins/")
    )
    long = "/" + "x" * 60
    found = roots({"TMPDIR": long, "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert found == (Path("/run/user/1000"), LAST)
    made = Path("/run/user/1000") / "mig-12345678"
    assert len(str(made) + LONGEST_SOCKET) <= SOCKET_PATH_BYTES
    assert roots({"TMPDIR": "here"}) == (LAST,)


def test_the_folder_goes_with_all_that_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="mdp-") as parent:
        monkeypatch.setenv("TMPDIR", parent)
        with own_folder() as folder:
            assert folder.parent == Path(parent)
            (folder / "sub").mkdir()
            (folder / "sub/file").touch()
        assert list(Path(parent).iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/not/there")
    with own_folder() as folder:
        assert folder.parent == LAST


# ---- its command line


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["demo", "--port=1"], 2, "with --stay only"),
        (["demo", "--simulate=p4d.24xlarge"], 2, "with --stay only"),
    ],
)
def test_what_belongs_to_stay_is_refused_without(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    assert said in capsys.readouterr().err


def test_a_node_that_cannot_be_simulated_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--stay", "--simulate=nothing"]) == 1
    assert capsys.readouterr().err.startswith("mig-device-plugin: unknown node 'nothing'")


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_a_bad_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--stay", f"--port={port}"])
    assert "choose a number from 1 to 65535" in capsys.readouterr().err
