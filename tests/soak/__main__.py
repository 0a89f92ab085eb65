"""``python -m tests.soak [--minutes M] [--seed N]``: churn, then the state and what has grown.

The exit status is 1 when something has grown beyond its allowance, or the end is not as it should
be; every reason is printed. The same seed does the same things, at times of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections import Counter
from http import HTTPStatus
from pathlib import Path

# gRPC reads this when it is imported. It reports every restart of the stand-in kubelet, which here
# is on purpose.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod
from tests.soak.deeds import DEEDS, Deed
from tests.soak.node import GPUS, Node
from tests.soak.usage import Allowance, Usage, grown, usage

RESOURCE = "nvidia.com/mig-1g.5gb"
DEVICES = 7 * GPUS
#: The share of the time after which nothing should grow any more.
WARM_UP = 0.3
#: Until every hold-down has passed; flapping doubles them, and the clear at the end forgets that.
END_SECONDS = 60.0
REPORT_SECONDS = 30.0


async def churn(node: Node, process: Process, chance: random.Random, until: float) -> Counter[str]:
    """One deed after another; returns how often each was done."""
    done: Counter[str] = Counter()
    deeds, weights = list(DEEDS), list(DEEDS.values())
    report = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < until:
        deed: Deed = chance.choices(deeds, weights)[0]
        await deed(node, chance)
        done[deed.__name__] += 1
        if process.returncode is not None:
            raise RuntimeError(f"the daemon ended with {process.returncode} after {deed.__name__}")
        if time.monotonic() > report:
            report += REPORT_SECONDS
            print(f"  {sum(done.values()):5} deeds  {usage(process.pid)}", flush=True)
        await asyncio.sleep(0.2 * chance.random())
    return done


async def calm(node: Node) -> None:
    """Take everything back that was broken, and make the first geometry again."""
    for name in list(node.kubelet.pods):
        await node.kubelet.delete(node.kubelet.pods[name].pod)
    await node.ask("sim", "unfail")
    for gpu in map(str, range(GPUS)):
        for verb in ("restore", "reset"):
            await node.ask("sim", verb, gpu)
        await node.ask("sim", "recovery", gpu, "none")
    await node.ask("sim", "repartition", "all-1g.5gb")
    for gpu in map(str, range(GPUS)):
        await node.ask("uncordon", gpu)
        await node.ask("clear", gpu)


async def wrong(node: Node) -> list[str]:
    """What is not as it should be once everything is well again."""
    found = []
    try:
        await node.kubelet.wait_allocatable(RESOURCE, DEVICES, END_SECONDS)
        await node.ready(END_SECONDS)
    except TimeoutError:
        found.append(f"allocatable: {node.kubelet.allocatable(RESOURCE)} of {DEVICES}")
    others = {
        name: numbers
        for name, numbers in node.kubelet.node_status().items()
        if name != RESOURCE and numbers[1]
    }
    if others:
        found.append(f"still allocatable: {others}")
    pods = [
        await node.kubelet.admit(Pod(f"last-{n}", containers={"main": {RESOURCE: 1}}))
        for n in range(DEVICES)
    ]
    running = [pod for pod in pods if pod.phase == "Running"]
    if len(running) < DEVICES or len({pod.device_ids for pod in running}) < DEVICES:
        reasons = Counter(pod.reason for pod in pods if pod.phase != "Running")
        found.append(f"{len(running)} of {DEVICES} pods run: {dict(reasons)}")
    for path in ("/healthz", "/readyz"):
        status, body = await node.get(path)
        if status != HTTPStatus.OK:
            found.append(f"{path}: {status} {body.decode()}")
    if problems := (await node.state())["problems"]:
        found.append(f"problems: {problems}")
    log = node.log.read_text(encoding="utf-8")
    if "Traceback" in log:
        found.append(f"a traceback in the log: {log[log.index('Traceback') :][:2000]}")
    if strange := [line for line in log.splitlines() if line and not line.startswith("{")]:
        found.append(f"not our log format: {strange[:3]}")
    return found


async def soak(minutes: float, seed: int, folder: Path) -> list[str]:
    chance = random.Random(seed)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with SimKubelet(
        folder / "plugins", pod_resources_dir=folder / "pod-resources", seed=seed
    ) as kubelet:
        node = Node(folder, kubelet, port)
        process = await node.start()
        try:
            await kubelet.wait_allocatable(RESOURCE, DEVICES)
            begun = time.monotonic()
            done = await churn(node, process, chance, begun + 60 * minutes * WARM_UP)
            await calm(node)
            found = await wrong(node)
            before = usage(process.pid)
            print(f"after the warm-up: {before}", flush=True)
            done += await churn(node, process, chance, begun + 60 * minutes)
            await calm(node)
            found += await wrong(node)
            after: Usage = usage(process.pid)
            print(f"at the end:        {after}", flush=True)
            print("done: " + ", ".join(f"{count} × {name}" for name, count in done.most_common()))
            return found + grown(before, after, Allowance())
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(10):
                        await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = asyncio.run(soak(arguments.minutes, arguments.seed, Path(folder)))
        if found:
            kept = Path(tempfile.gettempdir()) / "soak-daemon.log"
            kept.write_bytes((Path(folder) / "daemon.log").read_bytes())
            print(f"the daemon's log: {kept}")
    for reason in found:
        print(f"✕ {reason}")
    print("nothing has grown, and the end is right" if not found else f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
