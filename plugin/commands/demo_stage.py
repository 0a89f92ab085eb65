"""What every act of the demo uses: commands as typed, figures that are checked, pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from plugin.commands.daemon import Daemon
from plugin.commands.pictures import draw
from plugin.core.inventory.model import Gpu, MigDevice, MigMode, Placement
from plugin.core.reasons import Code
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

#: Time limit of one step; each takes well under a second, or two where pods that end are waited
#: for.
STEP_SECONDS = 10.0

#: What it is, how to read it, and what it should be.
Figure = tuple[str, Callable[[], object], object]
#: Waits until a condition holds, at most so many seconds. Raises TimeoutError.
WaitFor = Callable[[Callable[[], bool], float], Awaitable[None]]


class Stage:
    """One simulated node, and how many of its figures were wrong so far."""

    def __init__(
        self, out: Console, kubelet: SimKubelet, daemon: Daemon, seconds: float = STEP_SECONDS
    ) -> None:
        """`seconds` limits one step."""
        self.out = out
        self.kubelet = kubelet
        self.daemon = daemon
        self.seconds = seconds
        self.wrong = 0

    # ---- what is printed

    def title(self, text: str) -> None:
        self.out.print(f"\n[bold cyan]{text}[/]")

    def say(self, text: str, indent: int = 2) -> None:
        """Prints a line; on a terminal that is too narrow for it, several."""
        width = self.out.width if self.out.is_terminal else len(text) + indent
        lines = textwrap.wrap(text, width - indent, break_long_words=False)
        self.out.print(textwrap.indent("\n".join(lines), " " * indent), markup=False)

    def typed(self, *words: str) -> None:
        self.out.print(f"  $ mig-device-plugin {' '.join(words)}", style="bold", markup=False)

    async def command(self, verb: str, *arguments: str) -> None:
        """What an administrator would type, given to the daemon as that command gives it."""
        self.typed(verb, *arguments)
        self.say((await self.daemon.ask(verb, *arguments))["text"], indent=4)

    async def draw(self, only: Collection[int] = range(8)) -> None:
        holders: dict[str, str] = {}
        for resource in self.kubelet.node_status():
            holders |= self.kubelet.holders(resource)
        for gpu in (await self.daemon.ask("status"))["gpus"]:
            if gpu["index"] in only:
                leaving = _leaving(gpu)
                unhealthy = {u: why for u, why in _unhealthy(gpu).items() if u not in leaving}
                line = draw(_gpu(gpu), holders, unhealthy, leaving)
                self.out.print(line, no_wrap=True, overflow="crop")

    # ---- figures

    def expect(self, what: str, found: object, wanted: object) -> None:
        right = found == wanted
        line = Text("  ")
        line.append("✓ " if right else "✗ ", style="green" if right else "red")
        line.append(f"{what}: {found}" + ("" if right else f", should be {wanted}"))
        self.out.print(line)
        self.wrong += not right

    async def expect_soon(self, changed: WaitFor, *figures: Figure) -> None:
        """Wait until each of these is right, and compare: what it is, how to read it, and what it
        should be. `changed` waits for a condition, as :meth:`SimKubelet.wait_for`. Raises
        TimeoutError, with the wrong ones printed.
        """
        try:
            await changed(
                lambda: all(read() == wanted for _, read, wanted in figures), self.seconds
            )
        finally:
            for what, read, wanted in figures:
                self.expect(what, read(), wanted)

    async def allocatable(self, wanted: Mapping[str, int]) -> None:
        read = self.kubelet.allocatable
        await self.expect_soon(
            self.kubelet.wait_for,
            *(
                (f"allocatable {resource}", lambda resource=resource: read(resource), count)
                for resource, count in wanted.items()
            ),
        )

    async def capacity(self, resource: str, wanted: int) -> None:
        figure = f"capacity {resource}", lambda: self.kubelet.capacity(resource), wanted
        await self.expect_soon(self.kubelet.wait_for, figure)

    # ---- pods

    async def deploy(self, name: str, resource: str, replicas: int, running: int) -> None:
        """So many pods with one device each, of which `running` find one."""
        found, pending = await self.kubelet.deploy(name, resource, replicas)
        self.expect(f"of {replicas} pods with {resource} running", found, running)
        self.expect("the others pending", pending, replicas - running)

    def expect_running(self, wanted: int) -> None:
        running = (pod.phase == "Running" for pod in self.kubelet.pods.values())
        self.expect("pods running", sum(running), wanted)

    async def delete(self, names: Collection[str]) -> None:
        """Delete pods, each ``namespace/name``."""
        for name in names:
            namespace, _, pod = name.partition("/")
            await self.kubelet.delete(Pod(pod, namespace))

    async def delete_all(self) -> None:
        await self.delete(list(self.kubelet.pods))


def _unhealthy(gpu: Mapping[str, Any]) -> dict[str, str]:
    """UUID → reasons, for unhealthy devices of a GPU in the daemon's document."""
    devices: Sequence[Mapping[str, Any]] = (gpu, *gpu["migDevices"])
    return {
        device["uuid"]: "; ".join(reason["text"] for reason in device["reasons"])
        for device in devices
        if device["health"] == "unhealthy"
    }


def _leaving(gpu: Mapping[str, Any]) -> frozenset[str]:
    """UUIDs of devices that make room for a MIG configuration, and are well otherwise."""
    return frozenset(
        device["uuid"]
        for device in gpu["migDevices"]
        if {reason["code"] for reason in device["reasons"]} == {Code.PARTITIONING}
    )


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
