"""The daemon from start to stop: registration, kubelet's restarts, lost sockets, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.goaway import goaway

from . import plugins
from .conftest import SECONDS, StartDaemon, becomes, plugin_client, sockets

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"
BALANCED = {"nvidia.com/mig-1g.5gb": 16, "nvidia.com/mig-2g.10gb": 8, "nvidia.com/mig-3g.20gb": 8}

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("node", "strategy", "wanted"),
    [
        ("p4d.24xlarge", "none", {"nvidia.com/gpu": 8}),
        ("p4d.24xlarge", "mixed", {"nvidia.com/gpu": 8}),
        ("p4d.24xlarge", "single", {"nvidia.com/gpu": 8}),
        (NODE, "mixed", {ONE_SLICE: 56}),
        (NODE, "single", {ONE_SLICE: 56}),
        ("p4d.24xlarge:all-balanced", "mixed", BALANCED),
        (
            "p4d.24xlarge:0=1g.5gb*7;1=3g.20gb",
            "mixed",
            {"nvidia.com/gpu": 6, ONE_SLICE: 7, "nvidia.com/mig-3g.20gb": 1},
        ),
        (
            "p5.48xlarge:0=1g.10gb+me,1g.10gb*6",
            "mixed",
            {"nvidia.com/gpu": 7, "nvidia.com/mig-1g.10gb": 6, "nvidia.com/mig-1g.10gb.me": 1},
        ),
        ("1xa100-40gb:0=1c.3g.20gb*3", "mixed", {"nvidia.com/mig-1c.3g.20gb": 3}),
        ("g4dn.12xlarge", "mixed", {"nvidia.com/gpu": 4}),
        ("a30-server:all-1g.6gb", "single", {"nvidia.com/mig-1g.6gb": 16}),
    ],
)
async def test_advertises_by_strategy(
    kubelet: SimKubelet, start_daemon: StartDaemon, node: str, strategy: str, wanted: dict[str, int]
) -> None:
    await start_daemon(node, MIG_STRATEGY=strategy)
    await kubelet.wait_for(
        lambda: {r: n for r, (_, n) in kubelet.node_status().items()} == wanted, SECONDS
    )


async def test_single_as_nvidia_names_it(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon(NODE, "--single-resource=gpu", MIG_STRATEGY="single")
    await kubelet.wait_allocatable("nvidia.com/gpu", 56, SECONDS)
    assert kubelet.node_status().keys() == {"nvidia.com/gpu"}


@pytest.mark.parametrize("geometry", ["all-balanced", "0=1g.5gb*7"])
async def test_broken_single_node_stays_up_and_says_why(
    kubelet: SimKubelet, start_daemon: StartDaemon, geometry: str
) -> None:
    daemon = await start_daemon(f"p4d.24xlarge:{geometry}", MIG_STRATEGY="single")
    await daemon.logged("--mig-strategy=single: every")
    assert kubelet.registrations == []
    assert await daemon.stop() == 0


async def test_shared_devices(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    config = node_dir / "config.json"
    resources = [{"name": ONE_SLICE, "replicas": 4}]
    slicing = {"renameByDefault": True, "failRequestsGreaterThanOne": True, "resources": resources}
    config.write_text(json.dumps({"version": "v1", "sharing": {"timeSlicing": slicing}}))
    await start_daemon(NODE, CONFIG_FILE=str(config))
    await kubelet.wait_allocatable(f"{ONE_SLICE}.shared", 224, SECONDS)
    pod = await kubelet.admit(Pod("two", containers={"main": {f"{ONE_SLICE}.shared": 2}}))
    assert pod.phase == "Failed"
    assert "maximum is 1" in pod.reason
    # Four pods with one share each: spread over four devices, each named without its replica's
    # number.
    pods = [
        await kubelet.admit(Pod(f"p{n}", containers={"main": {f"{ONE_SLICE}.shared": 1}}))
        for n in range(4)
    ]
    uuids = {pod.containers["main"].envs["CUDA_VISIBLE_DEVICES"] for pod in pods}
    assert len(uuids) == 4
    assert not any("::" in uuid for uuid in uuids)


async def test_topology(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    numa = [device.numa for device in kubelet.devices(ONE_SLICE).values()]
    assert sorted(numa) == [(0,)] * 28 + [(1,)] * 28


async def test_kubelet_restart(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon("p4d.24xlarge:all-balanced")
    await kubelet.wait_for(
        lambda: kubelet.node_status() == {r: (n, n) for r, n in BALANCED.items()}, SECONDS
    )
    for _ in range(3):
        await kubelet.restart()
        await kubelet.wait_for(
            lambda: kubelet.node_status() == {r: (n, n) for r, n in BALANCED.items()}, SECONDS
        )
    assert all(kubelet.live_streams(resource) == 1 for resource in BALANCED)


async def test_kubelet_comes_late(node_dir: Path, start_daemon: StartDaemon) -> None:
    # A simulation logs at this level that there is no kubelet.
    daemon = await start_daemon(NODE, LOG_LEVEL="debug")
    await daemon.logged("waiting for kubelet")
    async with SimKubelet(node_dir / "plugins", readmission_s=None) as kubelet:
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)


async def test_own_socket_deleted(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    (old,) = sockets(kubelet)
    old.unlink()
    await kubelet.wait_for(lambda: len(kubelet.registrations) == 2, SECONDS)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    assert sockets(kubelet) != [old]


async def test_sigterm_with_open_streams(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    daemon = await start_daemon("p4d.24xlarge:all-balanced")
    await kubelet.wait_allocatable(ONE_SLICE, 16, SECONDS)
    async with plugin_client(sockets(kubelet)[0]) as client:
        stream = client.ListAndWatch(pb.Empty())
        assert len((await anext(aiter(stream))).devices) in BALANCED.values()
        assert await daemon.stop() == 0
    assert sockets(kubelet) == []


async def test_a_second_stream_disturbs_nobody(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """Another client watches and goes away: kubelet's stream stays the registered one."""
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    async with plugin_client(sockets(kubelet)[0]) as client:
        stream = client.ListAndWatch(pb.Empty())
        assert len((await anext(aiter(stream))).devices) == 56
        stream.cancel()
        # Answered after the cancellation was: the daemon has seen it.
        await client.GetDevicePluginOptions(pb.Empty())
    assert len(kubelet.registrations) == 1
    assert kubelet.live_streams(ONE_SLICE) == 1


async def test_accepted_but_never_watched(node_dir: Path, start_daemon: StartDaemon) -> None:
    """A kubelet that accepts and then dies before it opens ListAndWatch: the next one gets a
    registration.
    """
    directory = node_dir / "plugins"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "kubelet.sock"))  # nobody listens
        daemon = await start_daemon(NODE)
        await daemon.logged("not registered, trying again")
    async with SimKubelet(directory, readmission_s=None) as kubelet:
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)


async def test_without_kubelet_nothing_registers(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    elsewhere = str(kubelet.directory / "other.sock")
    daemon = await start_daemon(NODE, KUBELET_SOCKET=elsewhere, LOG_LEVEL="debug")
    await daemon.logged("waiting for kubelet")
    assert kubelet.registrations == []
    assert await daemon.stop() == 0


async def test_sighup_reads_the_configuration_again(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    config = node_dir / "config.yaml"
    config.write_text("version: v1\nflags:\n  migStrategy: none\n")
    daemon = await start_daemon(NODE, CONFIG_FILE=str(config), MIG_STRATEGY="")
    await kubelet.wait_allocatable("nvidia.com/gpu", 8, SECONDS)
    config.write_text("version: v1\nflags:\n  migStrategy: mixed\n")
    daemon.process.send_signal(signal.SIGHUP)
    await kubelet.wait_for(
        lambda: kubelet.node_status() == {"nvidia.com/gpu": (0, 0), ONE_SLICE: (56, 56)}, SECONDS
    )
    # The resource that went away sent an empty list before its stream ended, and left no socket.
    gone = [message for message in kubelet.messages if message.resource == "nvidia.com/gpu"]
    assert gone[-1].devices == ()
    await kubelet.wait_for(lambda: kubelet.live_streams("nvidia.com/gpu") == 0, SECONDS)
    await becomes(lambda: len(sockets(kubelet)) == 1)
    config.write_text("version: v1\nflags:\n  migStrategy: wrong\n")
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("flags.migStrategy: 'wrong' is not valid; choose none, single, mixed")
    assert kubelet.allocatable(ONE_SLICE) == 56


async def test_a_node_that_cannot_be_simulated_is_refused_before_start(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon("999999999xa100-40gb")
    async with asyncio.timeout(SECONDS):
        assert await daemon.process.wait() == 2
    assert "--simulate: unknown node '999999999xa100-40gb'" in daemon.log
    assert len(daemon.log.splitlines()) == 1


async def test_sighup_reports_each_change_that_needs_a_restart(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    config = node_dir / "config.yaml"
    config.write_text("version: v1\nflags: {plugin: {allocationPolicy: packed}}\n")
    environment = {"HTTP_ADDRESS": "127.0.0.1:0"}
    daemon = await start_daemon(NODE, CONFIG_FILE=str(config), LOG_FORMAT="json", **environment)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    config.write_text(
        "version: v1\n"
        "flags:\n"
        "  failOnInitError: false\n"
        "  nvidiaDriverRoot: /driver\n"
        "  plugin: {httpTLSCert: /cert, httpTLSKey: /key, rescanInterval: 7, dcgmNames: true}\n"
        "sharing: {timeSlicing: {resources: [{name: nvidia.com/mig-1g.5gb, replicas: 2}]}}\n"
    )
    daemon.process.send_signal(signal.SIGHUP)
    await kubelet.wait_allocatable(ONE_SLICE, 112, SECONDS)
    await daemon.logged("configuration read again")
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    refused = {
        line["option"]: (line["old"], line["new"], line["fix"])
        for line in lines
        if line["message"] == "option changed, which takes effect after a restart"
    }
    fix = "restart the daemon, or undo the change"
    assert refused == {
        "flags.failOnInitError": ("true", "false", fix),
        "flags.nvidiaDriverRoot": ("/", "/driver", fix),
        "flags.plugin.httpTLSCert": ("", "/cert", fix),
        "flags.plugin.httpTLSKey": ("", "/key", fix),
        "flags.plugin.dcgmNames": ("false", "true", fix),
    }


async def test_kubelet_is_answered_while_the_configuration_is_read(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path
) -> None:
    """A megabyte takes seconds to read, a pipe would take for ever; neither changes anything."""
    config = node_dir / "config.yaml"
    config.write_text("version: v1\n")
    daemon = await start_daemon(NODE, CONFIG_FILE=str(config))
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    (node_dir / "large").write_text("version: v1\nx: [" + "1," * 500_000 + "]")
    (node_dir / "large").rename(config)
    daemon.process.send_signal(signal.SIGHUP)
    admitted = await kubelet.admit(Pod("during", containers={"main": {ONE_SLICE: 1}}))
    assert admitted.phase == "Running"
    assert "configuration not taken" not in daemon.log, "it was read before kubelet was answered"
    await daemon.logged("holds too many values")
    config.unlink()
    os.mkfifo(config)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("is not a regular file")
    assert daemon.log.count("configuration not taken, the old one stays") == 2
    assert kubelet.node_status() == {ONE_SLICE: (56, 56)}
    assert await daemon.stop() == 0


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
    await daemon.logged("not registered, trying again")
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
    # The directory has been looked at since: what happened in it later is known.
    rival = kubelet.directory / "plugin.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(rival))
    rival.unlink()
    await daemon.logged("another plugin's socket has gone")
    assert daemon.log.count("another plugin's socket has gone") == 1


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
    ("environment", "flags", "words"),
    [
        (
            {"MIG_STRATEGY": "mix"},
            (),
            "MIG_STRATEGY: 'mix' is not valid; choose none, single, mixed",
        ),
        (
            {},
            ("--device-list-strategy=cdi-cri",),
            "--device-list-strategy: 'cdi-cri' is not valid; choose",
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
    start_daemon: StartDaemon, environment: dict[str, str], flags: tuple[str, ...], words: str
) -> None:
    daemon = await start_daemon(NODE, *flags, **environment)
    async with asyncio.timeout(SECONDS):
        assert await daemon.process.wait() == 2
    assert words in daemon.log
    assert len(daemon.log.splitlines()) == 1
