"""Runs inside the image: the simulated daemon in its own process beside the stand-in kubelet.

``KUBELET_SOCKET`` and ``NODE`` (as for ``--simulate``) come from the environment. The root file
system is expected to be read-only, except for kubelet's directory.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

RESOURCE = "nvidia.com/mig-1g.5gb"
DEVICES = 56


async def main() -> None:
    socket = Path(os.environ["KUBELET_SOCKET"])
    if os.access("/opt", os.W_OK):
        sys.exit("the root file system is not read-only, so this check would prove little")
    async with SimKubelet(socket.parent) as kubelet:
        started = time.monotonic()
        daemon = await asyncio.create_subprocess_exec(
            "mig-device-plugin",
            "run",
            "--simulate",
            os.environ["NODE"],
            env={**os.environ, "MIG_STRATEGY": "mixed"},
        )
        try:
            await kubelet.wait_allocatable(RESOURCE, DEVICES, timeout=60)
            print(
                f"{DEVICES} of {RESOURCE} listed {(time.monotonic() - started) * 1000:.0f} ms "
                "after the start"
            )
            pod = await kubelet.admit(Pod("one-slice", containers={"main": {RESOURCE: 1}}))
            if pod.phase != "Running":
                sys.exit(f"a pod with one {RESOURCE} is {pod.phase}: {pod.reason}")
            print(
                "a pod got "
                f"CUDA_VISIBLE_DEVICES={pod.containers['main'].envs['CUDA_VISIBLE_DEVICES']}"
            )
            daemon.terminate()
            try:
                async with asyncio.timeout(10):
                    status = await daemon.wait()
            except TimeoutError:
                sys.exit("the daemon still runs 10 s after SIGTERM")
        finally:
            if daemon.returncode is None:
                daemon.kill()
                await daemon.wait()
        left = [
            path.name for path in socket.parent.iterdir() if path.is_socket() and path != socket
        ]
        if status or left:
            sys.exit(
                f"after SIGTERM the daemon ended with status {status} and left these sockets: "
                f"{left or 'none'}"
            )
        if kubelet.violations:
            sys.exit(f"kubelet has to complain:\n{kubelet.describe()}")
        print("SIGTERM: status 0, no socket left")


asyncio.run(main())
