"""The daemon from start to stop: advertising, kubelet, signals."""

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

from .conftest import StartDaemon, plugin_client, sockets
from .waiting import SECONDS, becomes

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
    daemon = await start_daemon(NODE, LOG_LEVEL="debug")
    await daemon.logged("no kubelet here, devices are registered once its socket exists")
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
        await daemon.logged("registration failed, retrying")
    async with SimKubelet(directory, readmission_s=None) as kubelet:
        await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)


async def test_without_kubelet_nothing_registers(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    other = str(kubelet.directory / "other.sock")
    daemon = await start_daemon(NODE, KUBELET_SOCKET=other, LOG_LEVEL="debug")
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
    os.mkfifo(node_dir / "pipe")
    (node_dir / "pipe").rename(config)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("is not a regular file")
    assert kubelet.node_status() == {ONE_SLICE: (56, 56)}
    assert await daemon.stop() == 0
