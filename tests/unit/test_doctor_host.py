"""``doctor``'s checks of kubelet, other plugins and the container runtime."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.commands.check import Check, Outcome
from plugin.commands.host_checks import conflict_check, host_checks, rival_checks
from plugin.core.settings import DeviceListStrategy
from plugin.kubelet.deviceplugin.conflicts import Conflict, conflicts
from plugin.kubelet.deviceplugin.rivals import UPDATE_SECONDS

from .doctor_checks import FAIL, MIXED, PASS, WARN, listening, named


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "kubelet.sock"
    with listening(path):
        yield path


def test_kubelet_is_there(kubelet: Path) -> None:
    check = named(host_checks(replace(MIXED, kubelet_socket=str(kubelet))), "kubelet")
    assert check == Check("kubelet", PASS, str(kubelet))


@pytest.mark.parametrize(
    ("path", "verdict", "simulated", "expected"),
    [
        ("missing/kubelet.sock", FAIL, WARN, "does not exist"),
        ("kubelet.sock", WARN, WARN, "is no socket"),
        ("file", WARN, WARN, "is no socket"),
        ("dead.sock", WARN, WARN, "nothing listens"),
        ("", WARN, WARN, "no registration"),
    ],
)
def test_kubelet_is_not_there(
    tmp_path: Path, path: str, verdict: Outcome, simulated: Outcome, expected: str
) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    settings = replace(MIXED, kubelet_socket=str(tmp_path / path) if path else "")
    check = named(host_checks(settings), "kubelet")
    assert check.outcome is verdict
    assert expected in check.detail
    assert check.fix
    assert (
        named(host_checks(replace(settings, simulate="p4d.24xlarge")), "kubelet").outcome
        is simulated
    )


# ---- others that serve the same resources

SLICES, GPUS = "nvidia.com/mig-1g.5gb", "nvidia.com/gpu"
NVIDIAS = "nvidia-mig-1g.5gb.sock"
FIRST, SECOND = (f"nvidia.com-mig-1g.5gb-{word}-1.sock" for word in ("0123abcd", "4567cdef"))


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({}, ()),
        (
            {FIRST: 90.0, "kubelet.sock": 99.0, "rdma.sock": 99.0, "nvidia-mig-2g.10gb.sock": 9.0},
            (),
        ),
        ({NVIDIAS: 1.0}, (Conflict((NVIDIAS,), (SLICES,)),)),
        (
            {FIRST: 90.0, NVIDIAS: 1.0, "nvidia-gpu.sock": 1.0},
            (Conflict(("nvidia-gpu.sock", NVIDIAS), (SLICES, GPUS)),),
        ),
        # One daemon has a socket for each resource, and a new one after kubelet's restart.
        ({FIRST: 90.0, "nvidia.com-gpu-0123abcd-7.sock": 90.0}, ()),
        (
            {FIRST: 90.0, SECOND: UPDATE_SECONDS},
            (Conflict((FIRST, SECOND), (SLICES,), daemons=2),),
        ),
        (
            {FIRST: 90.0, SECOND: UPDATE_SECONDS - 1},
            (Conflict((FIRST, SECOND), (SLICES,), daemons=2, update=True),),
        ),
        (
            {FIRST: 90.0, SECOND: 90.0, NVIDIAS: 90.0},
            (
                Conflict((NVIDIAS,), (SLICES,)),
                Conflict((FIRST, SECOND), (SLICES,), daemons=2),
            ),
        ),
        ({"nvidia.com-mig-7g.40gb-0123abcd-1.sock": 90.0, SECOND: 90.0}, ()),
    ],
)
def test_who_serves_a_resource_twice(
    live: dict[str, float], expected: tuple[Conflict, ...]
) -> None:
    assert conflicts(live, (SLICES, GPUS)) == expected


@pytest.mark.parametrize(
    ("names", "verdict", "words"),
    [
        ((), PASS, "none whose socket's name"),
        ((FIRST,), PASS, "none whose socket's name"),
        ((NVIDIAS,), FAIL, f"NVIDIA's device plugin serves {SLICES}: {NVIDIAS} in "),
        ((FIRST, SECOND), WARN, f"2 daemons serve {SLICES}, as during an update: {FIRST}, "),
    ],
)
def test_others_are_found_by_their_sockets(
    kubelet: Path, tmp_path: Path, names: tuple[str, ...], verdict: Outcome, words: str
) -> None:
    settings = replace(MIXED, kubelet_socket=str(kubelet))
    (tmp_path / "not-a-socket.sock").touch()
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(listening(tmp_path / name))
        check = named(rival_checks((SLICES,), settings), "other plugins")
    assert check.outcome is verdict
    assert check.detail.startswith(words)
    assert bool(check.fix) == (verdict is not PASS)
    # What nobody listens on any more serves nothing.
    check = named(rival_checks((SLICES,), settings), "other plugins")
    assert check.outcome is PASS


def test_two_daemons_that_stay_are_a_failure() -> None:
    check = conflict_check(Conflict((FIRST, SECOND), (SLICES,), daemons=2), Path("/plugins"))
    assert check.outcome is FAIL
    assert check.detail == (
        f"2 daemons of this plugin serve {SLICES}: {FIRST}, {SECOND} in /plugins"
    )
    assert "helm list" in check.fix


@pytest.mark.parametrize("socket_path", ["", "/nowhere/kubelet.sock"])
def test_nobody_is_found_missing_where_nobody_can_look(socket_path: str) -> None:
    settings = replace(MIXED, kubelet_socket=socket_path)
    assert not list(rival_checks((SLICES,), settings))


@pytest.mark.parametrize(
    ("limit", "warned"), [("8\n", True), ("127\n", True), ("128\n", False), ("odd", False)]
)
def test_a_low_limit_of_inotify_is_worth_a_warning(
    tmp_path: Path,
    limit: str,
    warned: bool,  # noqa: FBT001
) -> None:
    file = tmp_path / "sys/fs/inotify/max_user_instances"
    file.parent.mkdir(parents=True)
    file.write_text(limit)
    found = [
        check
        for check in host_checks(replace(MIXED, proc_root=str(tmp_path)))
        if check.name == "inotify"
    ]
    assert [check.outcome for check in found] == ([WARN] if warned else [])


def test_a_simulation_gets_no_advice_about_device_nodes() -> None:
    for specs in (False, True):
        settings = replace(MIXED, simulate="p4d.24xlarge", pass_device_specs=specs)
        check = named(host_checks(settings), "container runtime")
        assert (check.outcome, check.fix) == (PASS, "")


def test_by_cdi_containers_keep_their_gpu_without_device_specs() -> None:
    by_cdi = (DeviceListStrategy.CDI_ANNOTATIONS,)
    settings = replace(MIXED, pass_device_specs=False, device_list_strategy=by_cdi)
    check = named(host_checks(settings), "container runtime")
    assert (check.outcome, "enable_cdi" in check.detail) == (PASS, True)


def test_without_device_specs_containers_can_lose_their_gpu() -> None:
    check = named(host_checks(replace(MIXED, pass_device_specs=False)), "container runtime")
    assert check.outcome is WARN
    assert check.fix
