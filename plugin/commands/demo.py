"""``demo``: the MIG walkthrough on a simulated p4d.24xlarge, with the daemon as its own process and
real sockets.

One daemon runs throughout: geometries, faults and cordons arrive over its control socket, as an
administrator's commands would, and at the end by the Node's label. Every figure is checked; the
exit status is 0 only if all are right.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from rich.console import Console

from plugin.commands import demo_by_label
from plugin.commands.daemon import Daemon
from plugin.commands.demo_stage import Stage
from plugin.commands.folder import own_folder
from plugin.commands.stand_in_cluster import StandInCluster
from plugin.commands.terminal import console
from plugin.core.inventory.profiles import GPU_RESOURCE, resource_name
from plugin.errors import PluginError
from plugin.sim.kubelet.kubelet import SimKubelet

NODE = "p4d.24xlarge"
#: Long enough to see every fault of the second act before the first one recovers.
QUIET_SECONDS = 3

_STOPPED_BY = (signal.SIGTERM, signal.SIGHUP)

_ONE, _TWO, _THREE = (resource_name(profile) for profile in ("1g.5gb", "2g.10gb", "3g.20gb"))


def play() -> int:
    out = console()
    try:
        return asyncio.run(_play(out))
    except (PluginError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except asyncio.CancelledError:  # by a signal
        pass
    return 1


async def _play(out: Console) -> int:
    playing = asyncio.current_task()
    assert playing is not None  # noqa: S101 — this is a coroutine
    for number in _STOPPED_BY:  # the daemon outlives a terminal that is closed
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    out.print(f"[bold]mig-device-plugin on a simulated {NODE}[/], kubelet and API server")
    with own_folder() as folder:
        async with StandInCluster(folder) as cluster:
            pods = folder / "pod-resources"
            daemon = Daemon(
                folder,
                NODE,
                (
                    "--pass-device-specs",
                    f"--quiet-period={QUIET_SECONDS}",
                    f"--pod-resources-socket={pods / 'kubelet.sock'}",
                    "--http-address=",
                    *cluster.flags,
                ),
            )
            try:
                async with SimKubelet(
                    daemon.plugin_directory, pod_resources_dir=pods, seed=1
                ) as kubelet:
                    stage = Stage(out, kubelet, daemon)
                    await daemon.start()
                    await _walkthrough(stage)
                    await _troubles(stage)
                    await demo_by_label.play(stage, cluster)
                    stage.expect("breaches of kubelet's protocol", len(kubelet.violations), 0)
            except PluginError as error:
                if playing.cancelling():  # the daemon got the signal too, and ended first
                    raise asyncio.CancelledError from error
                raise
            except TimeoutError as error:
                raise TimeoutError(
                    f"{error}\nthe end of the daemon's log:\n{daemon.last_lines()}"
                ) from error
            finally:
                await daemon.stop()
    if stage.wrong:
        count = "1 number is" if stage.wrong == 1 else f"{stage.wrong} numbers are"
        out.print(f"\n[red]{count} wrong[/]")
        return 1
    out.print("\n[green]every number is right[/]")
    return 0


async def _walkthrough(stage: Stage) -> None:
    """Three geometries, each made under the running daemon."""
    stage.title("MIG off: whole GPUs")
    await stage.allocatable({GPU_RESOURCE: 8})
    await stage.draw()

    stage.title("all-1g.5gb: seven slices on each GPU")
    await stage.command("sim", "repartition", "all-1g.5gb")
    await stage.allocatable({GPU_RESOURCE: 0, _ONE: 56})
    running, pending = await stage.kubelet.deploy("slice", _ONE, 100)
    stage.say("a deployment of 100 pods with one slice each")
    stage.expect("pods running", running, 56)
    stage.expect("pods pending", pending, 44)
    await stage.draw()
    _show_pod(stage, "default/slice-0")
    await stage.delete_all()

    stage.title("all-balanced: two 1g.5gb, one 2g.10gb and one 3g.20gb on each GPU")
    await stage.command("sim", "repartition", "all-balanced")
    await stage.allocatable({_ONE: 16, _TWO: 8, _THREE: 8})
    for resource, wanted in ((_ONE, 16), (_TWO, 8), (_THREE, 8)):
        await stage.deploy(f"wants-{resource.rpartition('mig-')[2]}", resource, 20, wanted)
    await stage.draw()
    await stage.delete_all()


async def _troubles(stage: Stage) -> None:
    """Faults, recovery, a cordon and a re-partition, with pods on six of the eight GPUs."""
    stage.title("A fault of one slice takes out that slice, and its pod goes on")
    await stage.command("sim", "repartition", "all-1g.5gb")
    await stage.allocatable({_ONE: 56, _TWO: 0, _THREE: 0})
    await stage.kubelet.deploy("job", _ONE, 42)
    await stage.command("sim", "xid", "0:2", "109")
    await stage.allocatable({_ONE: 55})
    stage.expect_running(42)
    await stage.draw([0])

    stage.title("A fault of a whole GPU takes out its seven, no other")
    await stage.command("sim", "xid", "7", "119")
    await stage.allocatable({_ONE: 48})
    await stage.draw([6, 7])

    stage.title("A reset ends it; the slices that are made anew come back when all has been quiet")
    await stage.command("sim", "reset", "7")
    await stage.capacity(_ONE, 49)
    await stage.command("sim", "repartition", "7=1g.5gb*7")
    await stage.capacity(_ONE, 56)
    await stage.allocatable({_ONE: 56})
    stage.expect_running(42)
    await stage.draw([0, 7])

    stage.title("A cordon keeps new pods off a slice")
    await stage.command("cordon", "6:0")
    await stage.allocatable({_ONE: 55})
    await stage.draw([6])
    await stage.command("uncordon", "6:0")
    await stage.allocatable({_ONE: 56})

    stage.title("A free GPU is re-partitioned while pods run on the others")
    before = _registrations(stage.kubelet, _ONE)
    await stage.command("sim", "repartition", "6=3g.20gb*2")
    await stage.allocatable({_ONE: 49, _THREE: 2})
    await stage.deploy("large", _THREE, 3, 2)
    stage.expect_running(44)
    stage.expect(f"new registrations of {_ONE}", _registrations(stage.kubelet, _ONE) - before, 0)
    stage.expect(f"open streams of {_ONE}", stage.kubelet.live_streams(_ONE), 1)
    await stage.draw()


def _show_pod(stage: Stage, name: str) -> None:
    container = next(iter(stage.kubelet.pods[name].containers.values()))
    stage.say(f"what pod {name} was given:")
    for key, value in sorted(container.envs.items()):
        stage.say(f"{key}={value}", indent=4)
    for device in container.devices:
        stage.say(f"{device.container_path} ({device.permissions})", indent=4)
    uuids = [device for ids in container.device_ids.values() for device in ids]
    stage.expect(
        "its CUDA_VISIBLE_DEVICES", container.envs.get("CUDA_VISIBLE_DEVICES"), ",".join(uuids)
    )
    capabilities = [
        d for d in container.devices if d.container_path.startswith("/dev/nvidia-caps/")
    ]
    stage.expect("its capability nodes (GPU instance, compute instance)", len(capabilities), 2)


def _registrations(kubelet: SimKubelet, resource: str) -> int:
    return sum(entry.resource == resource for entry in kubelet.registrations)
