"""``devices``: what is on the node, what it is advertised as, and why something is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from plugin.app import build_driver
from plugin.commands.terminal import console
from plugin.core.model import Device, Gpu, Inventory, MigDevice
from plugin.core.resources import Advertisement, advertise
from plugin.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Standing:
    """How a device stands: ``health`` is healthy, unhealthy, or withheld (on the node, in no list)."""

    resource: str | None
    health: str
    reasons: tuple[str, ...] = ()


def show(settings: Settings, output: str) -> int:
    driver = build_driver(settings)
    driver.open()
    try:
        inventory = driver.scan()
    finally:
        driver.close()
    advertisement = advertise(inventory, settings)
    if output == "json":
        print(msgspec.json.format(msgspec.json.encode(document(inventory, advertisement, settings))).decode())
    else:
        _print_table(inventory, advertisement, settings)
    return 0


def standing(device: Device, advertisement: Advertisement) -> Standing | None:
    """``None`` for a GPU that only carries MIG devices."""
    for resource, listed in advertisement.resources.items():
        for item in listed:
            if item.device.uuid == device.uuid:
                return Standing(resource, "healthy" if item.healthy else "unhealthy", item.reasons)
    reason = advertisement.withheld.get(device.uuid)
    if reason is not None:
        return Standing(None, "withheld", (reason,))
    return Standing(None, "unhealthy", (device.error,)) if device.error else None


def document(inventory: Inventory, advertisement: Advertisement, settings: Settings) -> dict[str, Any]:
    """The JSON form; documented in docs/commands.md."""
    return {
        "driver": {
            "version": inventory.driver_version,
            "nvml": inventory.nvml_version,
            "cuda": ".".join(map(str, inventory.cuda_version)) if inventory.cuda_version else None,
        },
        "strategy": settings.mig_strategy,
        "resources": {
            name: {"devices": len(listed), "healthy": sum(item.healthy for item in listed)}
            for name, listed in advertisement.resources.items()
        },
        "gpus": [
            {
                **_common(gpu, advertisement),
                "index": gpu.index,
                "minor": gpu.minor,
                "product": gpu.product,
                "pciBusId": gpu.pci_bus_id,
                "computeCapability": ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else None,
                "mig": {"current": gpu.mig.current, "pending": gpu.mig.pending} if gpu.mig else None,
                "migDevices": [
                    {
                        **_common(device, advertisement),
                        "index": device.index,
                        "profile": device.profile or None,
                        "gi": device.gi,
                        "ci": device.ci,
                        "placement": {"start": device.placement.start, "size": device.placement.size}
                        if device.placement
                        else None,
                        "multiprocessors": device.multiprocessors,
                    }
                    for device in gpu.mig_devices
                ],
            }
            for gpu in inventory.gpus
        ],
        "controlNodes": inventory.control_nodes,
        "problems": [*advertisement.problems, *warnings(inventory)],
    }


def _common(device: Device, advertisement: Advertisement) -> dict[str, Any]:
    stands = standing(device, advertisement)
    return {
        "uuid": device.uuid,
        "memoryMiB": device.memory_mib,
        "numa": device.numa,
        "nodes": device.nodes,
        "missingNodes": device.missing,
        "resource": stands.resource if stands else None,
        "health": stands.health if stands else None,
        "reasons": stands.reasons if stands else (),
    }


def warnings(inventory: Inventory) -> list[str]:
    return [*inventory.warnings, *(warning for gpu in inventory.gpus for warning in gpu.warnings)]


_STYLES = {"healthy": "green", "unhealthy": "red", "withheld": "yellow"}


def _print_table(inventory: Inventory, advertisement: Advertisement, settings: Settings) -> None:
    out = console()
    table = Table(box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False, header_style="bold")
    for name in ("DEVICE", "UUID", "PROFILE", "GI/CI", "SLICES", "MEMORY", "NUMA", "NODES", "RESOURCE", "HEALTH"):
        table.add_column(name, no_wrap=name not in {"HEALTH", "UUID", "NODES"}, overflow="fold")
    for device in inventory.devices():
        table.add_row(*_row(device, advertisement), end_section=False, style="dim" if isinstance(device, Gpu) else "")
    cuda = f", CUDA {'.'.join(map(str, inventory.cuda_version))}" if inventory.cuda_version else ""
    out.print(f"driver {inventory.driver_version or 'unknown'}{cuda}, strategy {settings.mig_strategy}")
    out.print(table if inventory.gpus else "no GPUs")
    for name, listed in advertisement.resources.items():
        unhealthy = sum(not item.healthy for item in listed)
        out.print(f"{name}: {len(listed) - unhealthy}" + (f" ([red]{unhealthy} unhealthy[/])" if unhealthy else ""))
    for problem in (*advertisement.problems, *warnings(inventory)):
        out.print(f"[yellow]![/] {escape(problem)}")


def _row(device: Device, advertisement: Advertisement) -> list[str]:
    stands = standing(device, advertisement)
    health = ""
    if stands:
        why = f": {escape('; '.join(stands.reasons))}" if stands.reasons else ""
        health = f"[{_STYLES[stands.health]}]{stands.health}[/]{why}"
    if isinstance(device, MigDevice):
        profile, instance = device.profile or "?", f"{device.gi}/{device.ci}"
        slices = f"{device.placement.start}:{device.placement.size}" if device.placement else "?"
    else:
        profile, instance, slices = device.product, _mode(device), ""
    nodes = " ".join(node.rpartition("/")[2].removeprefix("nvidia-") for node in device.nodes)
    return [
        device.path,
        device.uuid,
        profile,
        instance,
        slices,
        f"{device.memory_mib} MiB",
        "-" if device.numa is None else str(device.numa),
        nodes,
        (stands.resource if stands else None) or "",
        health,
    ]


def _mode(gpu: Gpu) -> str:
    if gpu.mig is None:
        return "no MIG"
    mode = "MIG on" if gpu.mig.current else "MIG off"
    return f"{mode}, {'on' if gpu.mig.pending else 'off'} pending" if gpu.mig_pending else mode
