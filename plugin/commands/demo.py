"""``demo``: the MIG walkthrough on a simulated p4d.24xlarge, the daemon as its own process, real sockets between.

Every number that a person would look for is compared with the right one; the exit status is 0 only when all agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from plugin.commands.pictures import draw
from plugin.commands.terminal import console
from plugin.core.model import Inventory
from plugin.core.profiles import GPU_RESOURCE, resource_name
from plugin.errors import PluginError
from plugin.sim.driver import SimDriver
from plugin.sim.engine import parse_node
from plugin.sim.kubelet import SimKubelet
from plugin.sim.kubelet_pods import Pod

NODE = "p4d.24xlarge"
#: How long one step may take before the demo gives up; every one of them takes well under a second.
STEP_SECONDS = 10.0


def play() -> int:
    try:
        return asyncio.run(_Demo(console()).play())
    except (PluginError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


class _Daemon:
    """The plugin as a process of its own, on the simulated node, talking to the stand-in kubelet."""

    def __init__(self, kubelet_socket: Path, log: Path) -> None:
        self._kubelet_socket = kubelet_socket
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, geometry: str) -> None:
        arguments = ["run", f"--simulate={NODE}:{geometry}", "--mig-strategy=mixed", "--log-format=console"]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "plugin", *arguments, f"--kubelet-socket={self._kubelet_socket}"), stderr=log
            )

    async def stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STEP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    def last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


class _Demo:
    def __init__(self, out: Console) -> None:
        self._out = out
        self._wrong = 0

    async def play(self) -> int:
        with tempfile.TemporaryDirectory(prefix="mig-demo-") as folder:
            directory = Path(folder) / "device-plugins"
            daemon = _Daemon(directory / "kubelet.sock", Path(folder) / "daemon.log")
            self._out.print(
                f"[bold]mig-device-plugin on a simulated {NODE}[/]: 8 × A100-40GB, stand-in kubelet, real sockets"
            )
            try:
                async with SimKubelet(directory, seed=1) as kubelet:
                    await self._walkthrough(kubelet, daemon)
            except TimeoutError as error:
                raise TimeoutError(f"{error}\nthe daemon's last words:\n{daemon.last_words()}") from error
            finally:
                await daemon.stop()
        if self._wrong:
            self._out.print(f"\n[red]{self._wrong} numbers are wrong[/]")
            return 1
        self._out.print("\n[green]every number is right[/]")
        return 0

    async def _walkthrough(self, kubelet: SimKubelet, daemon: _Daemon) -> None:
        one, two, three = (resource_name(profile) for profile in ("1g.5gb", "2g.10gb", "3g.20gb"))

        self._title("MIG off: whole GPUs")
        await self._geometry(kubelet, daemon, "mig-off", {GPU_RESOURCE: 8})

        self._title("all-1g.5gb: seven slices on each GPU")
        await self._geometry(kubelet, daemon, "all-1g.5gb", {GPU_RESOURCE: 0, one: 56})
        running, pending = await kubelet.deploy("slice", one, 100)
        self._out.print("  a deployment of 100 pods with one slice each")
        self._expect("pods running", running, 56)
        self._expect("pods pending", pending, 44)
        self._draw(kubelet, "all-1g.5gb")
        self._show_pod(kubelet, "default/slice-0")
        await self._delete_all(kubelet)

        self._title("all-balanced: two 1g.5gb, one 2g.10gb and one 3g.20gb on each GPU")
        await self._geometry(kubelet, daemon, "all-balanced", {one: 16, two: 8, three: 8})
        for resource, wanted in ((one, 16), (two, 8), (three, 8)):
            running, pending = await kubelet.deploy(f"wants-{resource.rpartition('mig-')[2]}", resource, 20)
            self._expect(f"of 20 pods with {resource} running", running, wanted)
            self._expect("the others pending", pending, 20 - wanted)
        self._draw(kubelet, "all-balanced")
        violations = kubelet.violations
        self._expect("breaches of kubelet's protocol", len(violations), 0)

    async def _geometry(self, kubelet: SimKubelet, daemon: _Daemon, geometry: str, wanted: Mapping[str, int]) -> None:
        """Restart the daemon on another geometry and compare what kubelet offers then."""
        await daemon.stop()
        await daemon.start(geometry)
        await kubelet.wait_for(
            lambda: all(kubelet.allocatable(resource) == count for resource, count in wanted.items()), STEP_SECONDS
        )
        for resource, count in wanted.items():
            self._expect(f"allocatable {resource}", kubelet.allocatable(resource), count)
        if wanted.get(GPU_RESOURCE):
            self._draw(kubelet, geometry)

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
        self._expect("its CUDA_VISIBLE_DEVICES", container.envs.get("CUDA_VISIBLE_DEVICES"), ",".join(uuids))
        capabilities = [d for d in container.devices if d.container_path.startswith("/dev/nvidia-caps/")]
        self._expect("its capability nodes (GPU instance, compute instance)", len(capabilities), 2)

    def _draw(self, kubelet: SimKubelet, geometry: str) -> None:
        inventory = _inventory(geometry)
        holders: dict[str, str] = {}
        for resource in kubelet.node_status():
            holders |= kubelet.holders(resource)
        for gpu in inventory.gpus:
            self._out.print(draw(gpu, holders), no_wrap=True, overflow="crop")

    def _title(self, text: str) -> None:
        self._out.print(f"\n[bold cyan]{text}[/]")

    def _expect(self, what: str, found: object, wanted: object) -> None:
        right = found == wanted
        line = Text("  ")
        line.append("✓ " if right else "✗ ", style="green" if right else "red")
        line.append(f"{what}: {found}" + ("" if right else f", should be {wanted}"))
        self._out.print(line)
        self._wrong += not right


def _inventory(geometry: str) -> Inventory:
    """What the daemon sees: a simulated node is the same for everyone who names it alike."""
    return SimDriver(parse_node(f"{NODE}:{geometry}")).scan()
