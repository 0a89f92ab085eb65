"""``demo --stay``: a simulated node to play with, until Ctrl-C. The daemon is its own process; the
stand-ins of kubelet, with its pods, and of the API server are in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from rich.console import Console

from plugin.commands.daemon import Daemon
from plugin.commands.folder import own_folder
from plugin.commands.stand_in_cluster import NODE as NAME
from plugin.commands.stand_in_cluster import PARTITION_LABEL, StandInCluster
from plugin.commands.suggestions import program, suggestions
from plugin.commands.terminal import console
from plugin.errors import ControlError, PluginError
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod, PodResult
from plugin.sim.kubelet.workload import Start, Workload

NODE = "p4d.24xlarge:all-balanced"
#: Where metrics and page are by default; another port when something listens there.
PORT = 9400
HOST = "127.0.0.1"
#: A healed device is offered again after so long, so that somebody can wait for it.
QUIET_SECONDS = 5
#: Between two looks at what the pods do next.
STEP_SECONDS = 0.5
#: How long the start may take on a busy machine; it usually takes a second.
START_SECONDS = 60.0

_STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def play(simulate: str, port: int | None) -> int:
    """Run until a signal; returns the exit status. `port` is that of the page. Raises
    :class:`PluginError`.
    """
    parse_node(simulate or NODE)  # a bad one is refused in one line, before anything starts
    try:
        return asyncio.run(_play(simulate or NODE, _port(port)))
    except TimeoutError as error:
        print(f"demo: the simulated node does not start: {error}", file=sys.stderr)
        return 1


def _port(wanted: int | None) -> int:
    """The one asked for, or the usual one, or any that is free. Raises PluginError."""
    try:
        with socket.create_server((HOST, PORT if wanted is None else wanted)) as free:
            return int(free.getsockname()[1])
    except OSError as error:
        if wanted is not None:
            raise PluginError(
                f"port {wanted} of {HOST} cannot be had: {error.strerror}",
                "choose another one with --port",
            ) from error
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


async def _play(simulate: str, port: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOPPED_BY:
        loop.add_signal_handler(number, stop.set)
    out = console()
    with own_folder() as folder:
        async with StandInCluster(folder) as cluster:
            pods = folder / "pod-resources"
            daemon = Daemon(
                folder,
                simulate,
                (
                    f"--quiet-period={QUIET_SECONDS}",
                    "--sample-interval=2",
                    f"--pod-resources-socket={pods / 'kubelet.sock'}",
                    f"--http-address={HOST}:{port}",
                    *cluster.flags,
                    "--node-events",
                ),
            )
            try:
                async with SimKubelet(daemon.plugin_directory, pod_resources_dir=pods) as kubelet:
                    await daemon.start()
                    playground = _Playground(out, kubelet, cluster, daemon, port)
                    return await _until(stop, daemon, playground.run())
            finally:
                await daemon.stop()
                out.print("ended; nothing is left" if stop.is_set() else "ended")


async def _until(stop: asyncio.Event, daemon: Daemon, running: Coroutine[Any, Any, None]) -> int:
    """Until one of them is over: the signal, the daemon's process, or what runs here."""
    stopped = asyncio.create_task(stop.wait())
    ended = asyncio.create_task(daemon.ended())
    playing = asyncio.create_task(running)
    tasks = {stopped, ended, playing}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return 0
        if playing.done():
            playing.result()
        raise PluginError(f"the daemon ended; the end of its log:\n{daemon.last_lines()}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Playground:
    def __init__(
        self,
        out: Console,
        kubelet: SimKubelet,
        cluster: StandInCluster,
        daemon: Daemon,
        port: int,
    ) -> None:
        self._out = out
        self._kubelet = kubelet
        self._cluster = cluster
        self._daemon = daemon
        self._port = port
        self._workload = Workload()
        self._rng = random.Random(1)  # noqa: S311 — the pods need no secrets

    async def run(self) -> None:
        await self._ready()
        await self._introduce()
        shown = self._kubelet.node_status()
        self._cluster.publish(shown)
        while True:
            await self._step(time.monotonic())
            now = self._kubelet.node_status()
            for resource in now:
                if now[resource] != shown.get(resource):
                    self._show(resource, *now[resource])
            if now != shown:
                self._cluster.publish(now)
            shown = now
            await asyncio.sleep(STEP_SECONDS)

    async def _ready(self) -> None:
        """Wait until the daemon takes commands, kubelet knows its resources, and the page is
        there.
        """
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    resources = (await self._daemon.ask("status"))["resources"]
                    break
                except ControlError:
                    await asyncio.sleep(0.05)
        await self._kubelet.wait_for(
            lambda: set(self._kubelet.node_status()) >= set(resources), START_SECONDS
        )
        async with asyncio.timeout(START_SECONDS):
            while not await _listens(self._port):  # noqa: ASYNC110 — nobody announces it
                await asyncio.sleep(0.05)

    async def _introduce(self) -> None:
        page = f"http://{HOST}:{self._port}/"
        status = await self._daemon.ask("status")
        for label, text in (
            ("page", page),
            ("metrics", f"{page}metrics"),
            ("state", f"{page}api/v1/state"),
            ("log", str(self._daemon.log)),
            ("cluster", f"{self._cluster.address}/api/v1/nodes/{NAME}"),
            ("kubeconfig", str(self._cluster.kubeconfig)),
        ):
            self._out.print(f"[bold]{label:<11}[/]{text}", soft_wrap=True)
        self._out.print("\nIn another terminal:")
        pods = self._daemon.log.parent / "pod-resources" / "kubelet.sock"
        call = program(sys.argv[0])
        for each in suggestions(
            status, call, self._daemon.control_socket, str(pods), PARTITION_LABEL
        ):
            self._out.print(f"\n  [dim]# {each.meaning}[/]", soft_wrap=True)
            self._out.print(f"  {each.command}", soft_wrap=True, markup=False)
        self._out.print("\nCtrl-C ends it.\n", soft_wrap=True)

    def _show(self, resource: str, capacity: int, allocatable: int) -> None:
        self._out.print(f"{resource}: {allocatable} of {capacity} allocatable", soft_wrap=True)

    async def _step(self, now: float) -> None:
        evicted = (
            pod
            for pod in self._workload.running.values()
            if self._cluster.must_end(pod.namespace, pod.name)
        )
        for pod in dict.fromkeys((*self._workload.due(now), *evicted)):
            await self._end(pod)
        allocatable = {
            resource: numbers[1] for resource, numbers in self._kubelet.node_status().items()
        }
        new = self._workload.next_start(now, allocatable, self._rng)
        if new is not None:
            await self._start(new)

    async def _start(self, pod: Start) -> None:
        self._workload = self._workload.with_started(pod)
        self._cluster.pod_started(pod.namespace, pod.name)
        asked = Pod(pod.name, pod.namespace, {"main": {pod.resource: 1}})
        result = await self._kubelet.admit(asked)
        await self._each_device("hold", result, str(1000 + self._workload.started))

    async def _end(self, pod: Start) -> None:
        self._workload = self._workload.without(pod)
        result = self._kubelet.pods[f"{pod.namespace}/{pod.name}"]
        await self._each_device("release", result)
        await self._kubelet.delete(result.pod)
        self._cluster.pod_ended(pod.namespace, pod.name)

    async def _each_device(self, verb: str, pod: PodResult, *arguments: str) -> None:
        """A pod's process starts or ends on its devices; one that is gone has none."""
        ids: Sequence[str] = pod.device_ids
        for uuid in ids:
            with contextlib.suppress(ControlError):
                await self._daemon.ask("sim", verb, uuid, *arguments)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True
