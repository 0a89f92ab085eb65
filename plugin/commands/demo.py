"""``demo``: the MIG walkthrough on a simulated p4d.24xlarge, with the daemon as its own process and
real sockets.

One daemon runs throughout: geometries, faults and cordons arrive over its control socket, as an
administrator's commands would. Every figure is checked; the exit status is 0 only if all are right.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from plugin.commands.daemon import Daemon
from plugin.commands.folder import own_folder
from plugin.commands.pictures import draw
from plugin.commands.terminal import console
from plugin.core.inventory.model import Gpu, MigDevice, MigMode, Placement
from plugin.core.inventory.profiles import GPU_RESOURCE, resource_name
from plugin.errors import PluginError
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

NODE = "p4d.24xlarge"
#: Time limit of one step; each takes well under a second.
STEP_SECONDS = 10.0
#: Long enough to see every fault of the second act before the first one recovers.
QUIET_SECONDS = 3

_ONE, _TWO, _THREE = (resource_name(profile) for profile in ("1g.5gb", "2g.10gb", "3g.20gb"))


def play() -> int:
    try:
        return asyncio.run(_Demo(console()).play())
    except (PluginError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


class _Demo:
    def __init__(self, out: Console) -> None:
        self._out = out
        self._wrong = 0

    async def play(self) -> int:
        with own_folder() as folder:
            daemon = Daemon(
                folder,
                NODE,
                (
                    "--pass-device-specs",
                    f"--quiet-period={QUIET_SECONDS}",
                    "--pod-resources-socket=",
                    "--http-address=",
                ),
            )
            self._out.print(
                f"[bold]mig-device-plugin on a simulated {NODE}[/]: 8 × A100-40GB, stand-in "
                "kubelet, real sockets"
            )
            try:
                async with SimKubelet(daemon.plugin_directory, seed=1) as kubelet:
                    await daemon.start()
                    await self._walkthrough(kubelet, daemon)
                    await self._troubles(kubelet, daemon)
                    self._expect("breaches of kubelet's protocol", len(kubelet.violations), 0)
            except TimeoutError as error:
                raise TimeoutError(
                    f"{error}\nthe end of the daemon's log:\n{daemon.last_lines()}"
                ) from error
            finally:
                await daemon.stop()
        if self._wrong:
            self._out.print(f"\n[red]{self._wrong} numbers are wrong[/]")
            return 1
        self._out.print("\n[green]every number is right[/]")
        return 0

    async def _walkthrough(self, kubelet: SimKubelet, daemon: Daemon) -> None:
        """Three geometries, each made under the running daemon."""
        self._title("MIG off: whole GPUs")
        await self._allocatable(kubelet, {GPU_RESOURCE: 8})
        await self._draw(kubelet, daemon)

        self._title("all-1g.5gb: seven slices on each GPU")
        await self._command(daemon, "sim", "repartition", "all-1g.5gb")
        await self._allocatable(kubelet, {GPU_RESOURCE: 0, _ONE: 56})
        running, pending = await kubelet.deploy("slice", _ONE, 100)
        self._out.print("  a deployment of 100 pods with one slice each")
        self._expect("pods running", running, 56)
        self._expect("pods pending", pending, 44)
        await self._draw(kubelet, daemon)
        self._show_pod(kubelet, "default/slice-0")
        await self._delete_all(kubelet)

        self._title("all-balanced: two 1g.5gb, one 2g.10gb and one 3g.20gb on each GPU")
        await self._command(daemon, "sim", "repartition", "all-balanced")
        await self._allocatable(kubelet, {_ONE: 16, _TWO: 8, _THREE: 8})
        for resource, wanted in ((_ONE, 16), (_TWO, 8), (_THREE, 8)):
            running, pending = await kubelet.deploy(
                f"wants-{resource.rpartition('mig-')[2]}", resource, 20
            )
            self._expect(f"of 20 pods with {resource} running", running, wanted)
            self._expect("the others pending", pending, 20 - wanted)
        await self._draw(kubelet, daemon)
        await self._delete_all(kubelet)

    async def _troubles(self, kubelet: SimKubelet, daemon: Daemon) -> None:
        """Faults, recovery, a cordon and a re-partition, with pods on six of the eight GPUs."""
        self._title("A fault of one slice takes out that slice, and its pod goes on")
        await self._command(daemon, "sim", "repartition", "all-1g.5gb")
        await self._allocatable(kubelet, {_ONE: 56, _TWO: 0, _THREE: 0})
        await kubelet.deploy("job", _ONE, 42)
        await self._command(daemon, "sim", "xid", "0:2", "109")
        await self._allocatable(kubelet, {_ONE: 55})
        self._expect_running(kubelet, 42)
        await self._draw(kubelet, daemon, [0])

        self._title("A fault of a whole GPU takes out its seven, no other")
        await self._command(daemon, "sim", "xid", "7", "119")
        await self._allocatable(kubelet, {_ONE: 48})
        await self._draw(kubelet, daemon, [6, 7])

        self._title(
            "A reset ends it; the slices that are made anew come back when all has been quiet"
        )
        await self._command(daemon, "sim", "reset", "7")
        await self._capacity(kubelet, _ONE, 49)
        await self._command(daemon, "sim", "repartition", "7=1g.5gb*7")
        await self._capacity(kubelet, _ONE, 56)
        await self._allocatable(kubelet, {_ONE: 56})
        self._expect_running(kubelet, 42)
        await self._draw(kubelet, daemon, [0, 7])

        self._title("A cordon keeps new pods off a slice")
        await self._command(daemon, "cordon", "6:0")
        await self._allocatable(kubelet, {_ONE: 55})
        await self._draw(kubelet, daemon, [6])
        await self._command(daemon, "uncordon", "6:0")
        await self._allocatable(kubelet, {_ONE: 56})

        self._title("A free GPU is re-partitioned while pods run on the others")
        before = _registrations(kubelet, _ONE)
        await self._command(daemon, "sim", "repartition", "6=3g.20gb*2")
        await self._allocatable(kubelet, {_ONE: 49, _THREE: 2})
        running, pending = await kubelet.deploy("large", _THREE, 3)
        self._expect(f"of 3 pods with {_THREE} running", running, 2)
        self._expect("the others pending", pending, 1)
        self._expect_running(kubelet, 44)
        self._expect(f"new registrations of {_ONE}", _registrations(kubelet, _ONE) - before, 0)
        self._expect(f"open streams of {_ONE}", kubelet.live_streams(_ONE), 1)
        await self._draw(kubelet, daemon)

    async def _command(self, daemon: Daemon, verb: str, *arguments: str) -> None:
        """What an administrator would type, given to the daemon as that command gives it."""
        self._out.print(
            f"  $ mig-device-plugin {' '.join((verb, *arguments))}", style="bold", markup=False
        )
        self._out.print(f"    {(await daemon.ask(verb, *arguments))['text']}", markup=False)

    async def _allocatable(self, kubelet: SimKubelet, wanted: Mapping[str, int]) -> None:
        """Wait until kubelet offers this, and compare."""
        await kubelet.wait_for(
            lambda: all(
                kubelet.allocatable(resource) == count for resource, count in wanted.items()
            ),
            STEP_SECONDS,
        )
        for resource, count in wanted.items():
            self._expect(f"allocatable {resource}", kubelet.allocatable(resource), count)

    async def _capacity(self, kubelet: SimKubelet, resource: str, wanted: int) -> None:
        await kubelet.wait_for(lambda: kubelet.capacity(resource) == wanted, STEP_SECONDS)
        self._expect(f"capacity {resource}", kubelet.capacity(resource), wanted)

    def _expect_running(self, kubelet: SimKubelet, wanted: int) -> None:
        self._expect(
            "pods running", sum(pod.phase == "Running" for pod in kubelet.pods.values()), wanted
        )

    async def _delete_all(self, kubelet: SimKubelet) -> None:
        for name in list(kubelet.pods):
            namespace, _, pod = name.partition("/")
            await kubelet.delete(Pod(pod, namespace))

    def _show_pod(self, kubelet: SimKubelet, name: str) -> None:
        pod = kubelet.pods[name]
        container = next(iter(pod.containers.values()))
        self._out.print(f"  what pod {name} was given:")
        for key, value in sorted(container.envs.items()):
            self._out.print(f"    {key}={value}")
        for device in container.devices:
            self._out.print(f"    {device.container_path} ({device.permissions})")
        uuids = [device for ids in container.device_ids.values() for device in ids]
        self._expect(
            "its CUDA_VISIBLE_DEVICES", container.envs.get("CUDA_VISIBLE_DEVICES"), ",".join(uuids)
        )
        capabilities = [
            d for d in container.devices if d.container_path.startswith("/dev/nvidia-caps/")
        ]
        self._expect("its capability nodes (GPU instance, compute instance)", len(capabilities), 2)

    async def _draw(
        self, kubelet: SimKubelet, daemon: Daemon, only: Collection[int] = range(8)
    ) -> None:
        holders: dict[str, str] = {}
        for resource in kubelet.node_status():
            holders |= kubelet.holders(resource)
        for gpu in (await daemon.ask("status"))["gpus"]:
            if gpu["index"] in only:
                self._out.print(
                    draw(_gpu(gpu), holders, _unhealthy(gpu)), no_wrap=True, overflow="crop"
                )

    def _title(self, text: str) -> None:
        self._out.print(f"\n[bold cyan]{text}[/]")

    def _expect(self, what: str, found: object, wanted: object) -> None:
        right = found == wanted
        line = Text("  ")
        line.append("✓ " if right else "✗ ", style="green" if right else "red")
        line.append(f"{what}: {found}" + ("" if right else f", should be {wanted}"))
        self._out.print(line)
        self._wrong += not right


def _registrations(kubelet: SimKubelet, resource: str) -> int:
    return sum(entry.resource == resource for entry in kubelet.registrations)


def _unhealthy(gpu: Mapping[str, Any]) -> dict[str, str]:
    """UUID → reasons, for unhealthy devices of a GPU in the daemon's document."""
    devices: Sequence[Mapping[str, Any]] = (gpu, *gpu["migDevices"])
    return {
        device["uuid"]: "; ".join(reason["text"] for reason in device["reasons"])
        for device in devices
        if device["health"] == "unhealthy"
    }


def _gpu(gpu: Mapping[str, Any]) -> Gpu:
    """A GPU of the daemon's document, as far as a picture needs it."""
    devices = tuple(
        MigDevice(
            uuid=device["uuid"],
            gpu_uuid=gpu["uuid"],
            gpu_index=gpu["index"],
            index=device["index"],
            gi=device["gi"],
            ci=device["ci"],
            profile=device["profile"] or "?",
            placement=Placement(**device["placement"]) if device["placement"] else None,
        )
        for device in gpu["migDevices"]
    )
    return Gpu(
        uuid=gpu["uuid"],
        index=gpu["index"],
        product=gpu["product"],
        mig=MigMode(**gpu["mig"]) if gpu["mig"] else None,
        mig_devices=devices,
        memory_slices=gpu["memorySlices"],
    )
