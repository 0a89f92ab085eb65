"""``doctor``: each check with its verdict and what to do, and the worst one as exit status."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.commands.doctor import (
    Check,
    Outcome,
    checks,
    conflict_check,
    examine,
    host_checks,
    node_checks,
)
from plugin.config.load import Loaded
from plugin.core.inventory.model import Inventory, MigMode
from plugin.core.settings import MigStrategy, Settings
from plugin.errors import ConfigError
from plugin.kubelet.deviceplugin.conflicts import Conflict, conflicts
from plugin.kubelet.deviceplugin.rivals import UPDATE_SECONDS

from .builders import gpu, mig_device, mig_gpu, node

PASS, WARN, FAIL = Outcome.PASS, Outcome.WARN, Outcome.FAIL
MIXED = Settings(mig_strategy=MigStrategy.MIXED)
CAP = "/dev/nvidia-caps/nvidia-cap63"


def named(found: Iterable[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


def test_a_healthy_node_passes() -> None:
    found = list(node_checks(node(mig_gpu(0, "1g.5gb", "2g.10gb"), gpu(1)), MIXED))
    assert {check.outcome for check in found} == {PASS}
    assert named(found, "driver").detail == "version 550.90, NVML 12.550"
    assert named(found, "GPUs").detail == "2 × NVIDIA A100-SXM4-40GB"
    assert named(found, "MIG").detail == "on for 1 of 2 GPUs, 2 MIG devices"
    assert (
        "1 × nvidia.com/mig-1g.5gb, 1 × nvidia.com/mig-2g.10gb" in named(found, "resources").detail
    )


@pytest.mark.parametrize(
    ("inventory", "name", "verdict", "expected"),
    [
        pytest.param(node(), "GPUs", FAIL, "none found", id="no GPUs"),
        pytest.param(
            node(), "resources", FAIL, "nothing would be advertised", id="nothing to advertise"
        ),
        pytest.param(
            node(gpu(0, error="GPU 0: lost")), "GPU", FAIL, "GPU 0: lost", id="a broken GPU"
        ),
        pytest.param(
            node(gpu(0, warnings=("MIG device 0:1 cannot be read",))),
            "hardware",
            FAIL,
            "0:1",
            id="a broken device",
        ),
        pytest.param(
            Inventory(unreadable={3: "GPU 3 has no UUID"}),
            "hardware",
            FAIL,
            "GPU 3",
            id="a GPU nobody knows",
        ),
        pytest.param(
            node(replace(gpu(0), mig=None)), "MIG", PASS, "no MIG", id="cards without MIG"
        ),
        pytest.param(
            node(gpu(0), replace(gpu(1), mig=MigMode(current=False, pending=True))),
            "MIG",
            WARN,
            "pending on GPU 1",
            id="MIG mode pending",
        ),
        pytest.param(
            node(gpu(0), gpu(1, mig=True)),
            "strategy",
            WARN,
            "no MIG devices",
            id="an empty MIG GPU",
        ),
        pytest.param(
            node(gpu(0, mig_device(0, 0, missing_device_nodes=(CAP,)))),
            "capability nodes",
            FAIL,
            CAP,
            id="a missing capability node",
        ),
        pytest.param(
            node(gpu(0, missing_device_nodes=("/dev/nvidia0",))),
            "device nodes",
            FAIL,
            "/dev/nvidia0",
            id="a missing device node",
        ),
        pytest.param(
            node(*(gpu(n, missing_device_nodes=(f"/dev/nvidia{n}",)) for n in range(6))),
            "device nodes",
            FAIL,
            "/dev/nvidia3 and 2 more",
            id="many missing nodes",
        ),
        pytest.param(
            replace(node(gpu(0)), control_nodes=("/dev/nvidiactl",)),
            "control nodes",
            WARN,
            "/dev/nvidia-uvm, /dev/nvidia-uvm-tools",
            id="missing control nodes",
        ),
    ],
)
def test_what_is_wrong_is_named_with_a_fix(
    inventory: Inventory, name: str, verdict: Outcome, expected: str
) -> None:
    check = named(node_checks(inventory, MIXED), name)
    assert check.outcome is verdict
    assert expected in check.detail
    assert bool(check.fix) == (verdict is not PASS)


def test_nodes_of_gpus_and_of_instances_are_told_apart() -> None:
    inventory = node(
        gpu(
            0,
            mig_device(0, 0, missing_device_nodes=("/dev/nvidia0", CAP)),
            missing_device_nodes=("/dev/nvidia0",),
        )
    )
    found = list(node_checks(inventory, MIXED))
    assert named(found, "device nodes").detail == "missing below /: /dev/nvidia0"
    assert named(found, "capability nodes").detail == f"missing below /: {CAP}"


def test_a_driver_that_is_not_there_is_told_with_its_own_fix(tmp_path: Path) -> None:
    broken = tmp_path / "usr/lib64/libnvidia-ml.so.1"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no library; at all")
    settings = replace(MIXED, driver_root=str(tmp_path), container_driver_root=str(tmp_path))
    found = list(checks(Loaded(settings)))
    assert named(found, "library").outcome is FAIL
    check = named(found, "driver")
    assert check.outcome is FAIL
    assert check.detail.startswith(f"cannot load libnvidia-ml.so.1 from {broken}: ")
    assert check.fix.startswith("install the NVIDIA driver, ")


def test_missing_nodes_are_no_failure_where_the_runtime_makes_them() -> None:
    settings = replace(MIXED, pass_device_specs=False)
    inventory = node(gpu(0, missing_device_nodes=("/dev/nvidia0",)))
    assert named(node_checks(inventory, settings), "device nodes").outcome is WARN
    assert named(host_checks(settings), "container runtime").outcome is WARN


def test_a_simulation_gets_no_advice_about_device_nodes() -> None:
    for specs in (False, True):
        settings = replace(MIXED, simulate="p4d.24xlarge", pass_device_specs=specs)
        check = named(host_checks(settings), "container runtime")
        assert (check.outcome, check.fix) == (PASS, "")


# ---- the host


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Path]:
    """A socket that somebody listens on."""
    path = tmp_path / "kubelet.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
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
        ("", WARN, WARN, "no registration"),
    ],
)
def test_kubelet_is_not_there(
    tmp_path: Path, path: str, verdict: Outcome, simulated: Outcome, expected: str
) -> None:
    (tmp_path / "file").touch()
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
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(tmp_path / name))
            listening.listen()
        check = named(node_checks(node(mig_gpu(0, "1g.5gb")), settings), "other plugins")
    assert check.outcome is verdict
    assert check.detail.startswith(words)
    assert bool(check.fix) == (verdict is not PASS)
    # What nobody listens on any more serves nothing.
    check = named(node_checks(node(mig_gpu(0, "1g.5gb")), settings), "other plugins")
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
    found = node_checks(node(mig_gpu(0, "1g.5gb")), settings)
    assert not [check for check in found if check.name == "other plugins"]


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


# ---- the command


def simulated(kubelet_socket: Path | str, tmp_path: Path) -> Settings:
    return replace(
        MIXED,
        simulate="p4d.24xlarge:all-1g.5gb",
        kubelet_socket=str(kubelet_socket),
        proc_root=str(tmp_path),
    )


def test_a_simulated_node_is_checked_as_a_real_one(kubelet: Path, tmp_path: Path) -> None:
    found = list(checks(Loaded(simulated(kubelet, tmp_path))))
    assert {check.outcome for check in found if check.name != "permissions"} == {PASS}
    assert "56 × nvidia.com/mig-1g.5gb" in named(found, "resources").detail
    assert "not needed" in named(found, "library").detail


def test_warnings_of_the_configuration_come_first(kubelet: Path, tmp_path: Path) -> None:
    loaded = Loaded(simulated(kubelet, tmp_path), ("--mps-root has no effect",))
    assert next(checks(loaded)) == Check(
        "configuration", WARN, "--mps-root has no effect", "remove the setting"
    )


def test_the_worst_verdict_is_the_exit_status(
    kubelet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = simulated(kubelet, tmp_path)
    good = Loaded(settings)
    assert examine(good) == max(check.outcome for check in checks(good))
    assert examine(Loaded(settings, ("odd [setting]",))) == WARN
    capsys.readouterr()
    assert examine(Loaded(replace(settings, simulate="1xa100-40gb:all-enabled"))) == FAIL
    out = capsys.readouterr().out
    assert "fail  resources:" in out
    assert "fix:" in out
    assert "\x1b" not in out


def test_brackets_are_printed_as_they_are(
    kubelet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examine(Loaded(simulated(kubelet, tmp_path), ("odd [setting]",)))
    assert "odd [setting]" in capsys.readouterr().out


def test_a_node_that_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ConfigError, match="--simulate: unknown node"):
        list(checks(Loaded(Settings(simulate="nonsense"))))
