"""The daemon beside other plugins and other instances of itself, and refused settings."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path

import pytest

from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.goaway import goaway

from . import plugins
from .conftest import StartDaemon, sockets
from .waiting import SECONDS, becomes

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"
BALANCED = {"nvidia.com/mig-1g.5gb": 16, "nvidia.com/mig-2g.10gb": 8, "nvidia.com/mig-3g.20gb": 8}

pytestmark = pytest.mark.asyncio


async def test_two_instances_during_an_update(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """A new daemon starts before the old one ends: neither touches the other's socket, and one
    remains registered.
    """
    old = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    new = await start_daemon(NODE)
    await kubelet.wait_for(lambda: len(kubelet.registrations) == 2, SECONDS)
    assert await old.stop() == 0
    await kubelet.wait_for(
        lambda: len(kubelet.registrations) == 3, SECONDS
    )  # the old stream's end took the new one down
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    assert new.process.returncode is None
    kubelet.violations.clear()  # two streams at once were the point


@pytest.mark.parametrize("name", ["nvidia-mig-1g.5gb.sock", "plugin.sock"])
@pytest.mark.parametrize("killed", [True, False])
async def test_a_rival_that_comes_and_goes(
    kubelet: SimKubelet, start_daemon: StartDaemon, name: str, *, killed: bool
) -> None:
    """NVIDIA's plugin removed after ours started, as people migrate: pods can start again."""
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    ids = list(kubelet.devices(ONE_SLICE))
    rival = await plugins.start(kubelet.directory, name, ONE_SLICE, *ids)
    try:
        await kubelet.wait_for(lambda: len(kubelet.registrations) == 2, SECONDS)
        await kubelet.wait_for(lambda: kubelet.live_streams(ONE_SLICE) == 2, SECONDS)
        rival.send_signal(signal.SIGKILL)
        await rival.wait()
        assert (kubelet.directory / name).is_socket()
        if not killed:
            (kubelet.directory / name).unlink()
        await kubelet.wait_for(lambda: len(kubelet.registrations) == 3, SECONDS)
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
        pod = await kubelet.admit(Pod("after", containers={"main": {ONE_SLICE: 1}}))
        assert (pod.phase, pod.reason) == ("Running", "")
        assert kubelet.live_streams(ONE_SLICE) == 1
        assert (kubelet.directory / name).is_socket() == killed  # what is another's stays
    finally:
        if rival.returncode is None:
            rival.kill()
    kubelet.violations.clear()  # two streams at once were the point


async def test_a_rival_that_was_there_first(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    """The other order: ours takes the resource over, and the end of the older stream drops it."""
    rival = await plugins.start(kubelet.directory, "nvidia-mig-1g.5gb.sock", ONE_SLICE, "MIG-x")
    try:
        await kubelet.wait_allocatable(ONE_SLICE, 1, SECONDS)
        daemon = await start_daemon(NODE)
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
        await daemon.logged("another device plugin serves this resource")
        rival.kill()
        await rival.wait()
        await kubelet.wait_for(lambda: len(kubelet.registrations) >= 3, SECONDS)
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
        await daemon.logged("no other device plugin serves this resource any more")
        pod = await kubelet.admit(Pod("after", containers={"main": {ONE_SLICE: 1}}))
        assert (pod.phase, pod.reason) == ("Running", "")
    finally:
        if rival.returncode is None:
            rival.kill()
    kubelet.violations.clear()


async def test_what_a_killed_daemon_left_is_removed_by_the_next(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    (left,) = sockets(kubelet)
    await daemon.stop(signal.SIGKILL)
    other = kubelet.directory / "plugin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(other))
    assert left.is_socket()
    await start_daemon(NODE)
    await becomes(lambda: not left.exists())
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    assert len(sockets(kubelet)) == 1
    assert other.is_socket()


async def test_nothing_but_our_log_on_standard_error(
    kubelet: SimKubelet, start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPC writes lines of its own about connections that break, unless it is kept from it."""
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    daemon = await start_daemon(NODE, LOG_FORMAT="json")
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    await kubelet.stop()
    await daemon.logged("registration failed, retrying")
    (kubelet.directory / "kubelet.sock").unlink()
    async with goaway(kubelet.directory / "kubelet.sock") as peer:
        await becomes(lambda: peer.calls > 0)
    (kubelet.directory / "kubelet.sock").unlink(missing_ok=True)
    await kubelet.start()
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    assert await daemon.stop() == 0
    for line in daemon.log.splitlines():
        json.loads(line)


async def test_kubelets_own_files_are_no_plugins(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """Kubelet writes its checkpoint beside the sockets, at each list and each pod."""
    daemon = await start_daemon(NODE, LOG_LEVEL="debug")
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    for number in range(20):
        pod = Pod(f"p{number}", containers={"main": {ONE_SLICE: 1}})
        assert (await kubelet.admit(pod)).phase == "Running"
    assert "another plugin's socket has gone" not in daemon.log
    assert len(kubelet.registrations) == 1
    # Whatever happened in the directory so far has been read when something later is.
    rival = kubelet.directory / "plugin.sock"

    def noticed() -> bool:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(rival))
        rival.unlink()
        return "another plugin's socket has gone" in daemon.log

    await becomes(noticed)
    gone = [line for line in daemon.log.splitlines() if "another plugin's socket has gone" in line]
    assert all("socket=plugin.sock" in line for line in gone)


async def test_a_missing_directory_is_one_line(node_dir: Path, start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(
        "p4d.24xlarge:all-balanced",
        KUBELET_SOCKET=str(node_dir / "nowhere" / "kubelet.sock"),
        LOG_LEVEL="debug",
    )
    await daemon.logged("kubelet's directory cannot be watched")
    async with SimKubelet(node_dir / "nowhere", readmission_s=None) as late:
        await late.wait_for(
            lambda: late.node_status() == {r: (n, n) for r, n in BALANCED.items()}, SECONDS
        )
    assert daemon.log.count("cannot be watched") == 1
    assert daemon.log.count("waiting for kubelet") == len(BALANCED)


@pytest.mark.parametrize(
    ("environment", "flags", "expected"),
    [
        (
            {"MIG_STRATEGY": "mix"},
            (),
            "MIG_STRATEGY: 'mix' is not valid; choose none, single, mixed",
        ),
        (
            {},
            ("--device-list-strategy=cdi",),
            "--device-list-strategy: 'cdi' is not valid; choose",
        ),
        (
            {"CONFIG_FILE": "/nowhere/config.yaml"},
            (),
            "config file /nowhere/config.yaml: cannot be read",
        ),
        ({"CONFIG_FILE": "/dev/zero"}, (), "config file /dev/zero: cannot be read: is not a"),
        ({}, ("--http-address=[a:80]:90",), "'[a:80]:90' is not valid; choose HOST:PORT, :PORT"),
    ],
)
async def test_bad_settings_are_refused_before_start(
    start_daemon: StartDaemon, environment: dict[str, str], flags: tuple[str, ...], expected: str
) -> None:
    daemon = await start_daemon(NODE, *flags, **environment)
    async with asyncio.timeout(SECONDS):
        assert await daemon.process.wait() == 2
    assert expected in daemon.log
    assert len(daemon.log.splitlines()) == 1
