"""What can happen to a node, one thing at a time."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence

from plugin.sim.hardware.codes import Code
from plugin.sim.kubelet.pods import Pod, PodResult
from plugin.sim.nvml.library import FUNCTIONS
from tests.soak.node import GPUS, Node

Deed = Callable[[Node, random.Random], Awaitable[None]]

GEOMETRIES = (
    *("1g.5gb*7", "1g.5gb*2,2g.10gb,3g.20gb", "3g.20gb*2", "1c.3g.20gb*3,1g.5gb", "7g.40gb"),
    *("2g.10gb*3", "1g.5gb*3,1g.5gb+me,1g.10gb", ""),
)
XIDS = (13, 31, 43, 45, 48, 63, 74, 79, 94, 95, 109, 119, 154)
PAGES = ("/", "/metrics", "/api/v1/state", "/healthz", "/readyz")


async def repartition(node: Node, chance: random.Random) -> None:
    await node.ask("sim", "repartition", f"{chance.randrange(GPUS)}={chance.choice(GEOMETRIES)}")


async def fault(node: Node, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 12))):
        target = f"{chance.randrange(GPUS)}:{chance.randrange(7)}"
        await node.ask("sim", "xid", target, str(chance.choice(XIDS)))


async def reset(node: Node, chance: random.Random) -> None:
    await node.ask("sim", "reset", str(chance.randrange(GPUS)))


async def lose(node: Node, chance: random.Random) -> None:
    gpu = str(chance.randrange(GPUS))
    await node.ask("sim", "lose", gpu)
    await asyncio.sleep(chance.random())
    await node.ask("sim", "restore", gpu)


async def refuse(node: Node, chance: random.Random) -> None:
    """One function of the driver answers with an error, once or for a moment."""
    function, code = chance.choice(sorted(FUNCTIONS)), chance.choice([c for c in Code if c.value])
    await node.ask("sim", "fail", function, str(code.value), chance.choice(("once", "always")))
    await asyncio.sleep(chance.random())
    await node.ask("sim", "unfail")


async def cordon(node: Node, chance: random.Random) -> None:
    target = f"{chance.randrange(GPUS)}:{chance.randrange(7)}"
    await node.ask(chance.choice(("cordon", "uncordon", "clear")), target)


async def look(node: Node, chance: random.Random) -> None:
    await asyncio.gather(*(node.get(chance.choice(PAGES)) for _ in range(4)))


async def restart_kubelet(node: Node, chance: random.Random) -> None:
    await node.kubelet.stop()
    await asyncio.sleep(chance.random())
    await node.kubelet.start()


async def remove_socket(node: Node, chance: random.Random) -> None:
    ours = [path for path in node.kubelet.directory.glob("nvidia.com-*.sock") if path.is_socket()]
    if ours:
        chance.choice(ours).unlink(missing_ok=True)


async def rival(node: Node, chance: random.Random) -> None:
    process = await node.start_rival()
    try:
        await asyncio.sleep(1 + 2 * chance.random())
    finally:
        process.send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
        await process.wait()


async def pod_resources_outage(node: Node, chance: random.Random) -> None:
    aside = node.pod_resources.with_suffix(".aside")
    if node.pod_resources.exists():
        node.pod_resources.rename(aside)
        await asyncio.sleep(2 * chance.random())
        aside.rename(node.pod_resources)


async def pods(node: Node, chance: random.Random) -> None:
    """A pod comes; the oldest of many goes."""
    resource = chance.choice(("nvidia.com/mig-1g.5gb", "nvidia.com/mig-3g.20gb"))
    name = f"pod-{chance.getrandbits(40):x}"
    await node.kubelet.admit(Pod(name, containers={"main": {resource: 1}}))
    there: Sequence[PodResult] = list(node.kubelet.pods.values())
    for result in there[: max(0, len(there) - 20)]:
        await node.kubelet.delete(result.pod)


#: Each with how often it happens among the others.
DEEDS: dict[Deed, int] = {
    repartition: 6,
    fault: 6,
    reset: 2,
    lose: 2,
    refuse: 6,
    cordon: 4,
    look: 6,
    pods: 8,
    restart_kubelet: 2,
    remove_socket: 2,
    rival: 1,
    pod_resources_outage: 1,
}
