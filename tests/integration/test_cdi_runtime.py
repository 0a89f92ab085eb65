"""Containers through the specification, by another implementation of CDI: podman with crun."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from plugin.core.inventory.model import Inventory
from plugin.core.settings import DeviceIdStrategy, DeviceListStrategy, Settings
from plugin.sim.driver_files import SimInstallation
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.pods import Pod
from plugin.sim.verbs import perform
from tests.driver_tree import elf, put
from tests.simulated import scan

from .container_host import container_host, make_nodes, why_not
from .harness import NEVER, ONE_SLICE, live

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
#: Of every container, whatever devices it gets.
ORDINARY = {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr"} | {
    *("stdin", "stdout", "tty", "urandom", "zero", "console")
}


def make_machine(root: Path, inventory: Inventory) -> dict[str, tuple[int, int]]:
    """The node's device files, and its driver's; returns the numbers of the former."""
    every = [*inventory.control_nodes]
    every += [node for device in inventory.devices() for node in device.device_nodes]
    # Numbers of no driver: nothing opens them.
    nodes = {node: (240, number) for number, node in enumerate(dict.fromkeys(every))}
    make_nodes(root, nodes)
    installation = SimInstallation(inventory.driver_version)
    for name in installation.names(LIBRARIES):
        headers = installation.shared_object(f"{LIBRARIES}/{name}")
        if headers is not None:
            put(root, f"{LIBRARIES}/{name}", elf(headers.soname))
    put(root, "/usr/bin/nvidia-smi", b"#!/bin/busybox echo\n")
    (root / "usr/bin/nvidia-smi").chmod(0o755)
    return nodes


@pytest.mark.asyncio
@pytest.mark.parametrize("names", DeviceIdStrategy)
async def test_a_container_gets_its_device_alone(node_dir: Path, names: DeviceIdStrategy) -> None:
    root, specifications = node_dir / "driver", node_dir / "cdi"
    specifications.mkdir()
    hardware = parse_node("p4d.24xlarge:0=1g.5gb*2")
    inventory = scan(hardware)
    try:
        numbers = make_machine(root, inventory)
    except PermissionError:
        pytest.skip("device files cannot be made here")
    settings = Settings(
        device_list_strategy=(DeviceListStrategy.CDI_CRI,),
        device_id_strategy=names,
        driver_root=str(root),
        quiet_seconds=NEVER,
    )
    async with (
        live(node_dir, hardware, settings) as node,
        container_host(node_dir, specifications) as host,
    ):
        plain = await host.run((), "true")
        if plain.status:
            pytest.skip(f"no container starts here: {plain.errors}")
        pod = await node.kubelet.admit(Pod("p", containers={"main": {ONE_SLICE: 1}}))
        container = pod.containers["main"]
        (uuid,) = pod.device_ids
        device = inventory.device(uuid)
        assert device is not None
        assert container.devices == ()
        assert container.cdi_devices == (
            f"nvidia.com/mig={uuid if names is DeviceIdStrategy.UUID else device.path}",
        )

        ended = await host.run(
            container.cdi_devices,
            *(
                "sh",
                "-c",
                "cd /dev && busybox find . -type c -exec busybox stat -c '%n %t:%T' {} +",
            ),
        )
        assert ended.status == 0, ended.errors
        found = dict(line.split() for line in ended.output.splitlines())
        wanted = [*inventory.control_nodes, *device.device_nodes]
        expected = {
            f".{path.removeprefix('/dev')}": f"{major:x}:{minor:x}"
            for path, (major, minor) in numbers.items()
            if path in wanted
        }
        others = {path.split("/")[1] for path in found.keys() - expected.keys()}
        assert others <= ORDINARY
        assert {path: found.get(path) for path in expected} == expected

        script = f"""
            cd {LIBRARIES}
            busybox sha256sum libcuda.so libcuda.so.1 /usr/lib64/libcuda.so.1
            echo >libcuda.so.1
            echo $NVIDIA_VISIBLE_DEVICES
            nvidia-smi found
        """
        ended = await host.run(container.cdi_devices, "sh", "-c", script)
        library = root / LIBRARIES.lstrip("/") / f"libcuda.so.{inventory.driver_version}"
        *sums, visible, smi = ended.output.splitlines()
        assert [line.split()[0] for line in sums] == 3 * [sha256(library.read_bytes()).hexdigest()]
        assert "Read-only file system" in ended.errors
        assert (ended.status, visible) == (0, "void")
        assert smi.endswith("found")

        # Its MIG device is destroyed while it does not run.
        perform(node.hardware, "repartition", ["0=3g.20gb"])
        node.node.rescan()
        await node.becomes(lambda: uuid not in node.healthy() | node.unhealthy())
        ended = await host.run(container.cdi_devices, "true")
        if names is DeviceIdStrategy.UUID:
            assert ended.status != 0
            assert f"unresolvable CDI devices nvidia.com/mig={uuid}" in ended.errors
        else:  # the index is that of another device now, whose nodes are not on this machine
            assert f"{root}/dev/nvidia-caps/" in ended.errors
