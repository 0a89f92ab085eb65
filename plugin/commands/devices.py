"""``devices``: what is on the node, what it is advertised as, and why something is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from plugin.assembly import build_driver
from plugin.commands.look import look
from plugin.commands.partition_lines import line
from plugin.commands.terminal import console
from plugin.control.client import ask
from plugin.core.advertise.advertisement import advertise
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.errors import ControlError, NotRunning


def show(settings: Settings, output: str, *, scan: bool = False) -> int:
    """Show the running daemon's state; without one, or with `scan`, what the driver says now."""
    status = None if scan else _from_daemon(settings)
    if status is None:
        status = _from_driver(settings)
    if output == "json":
        print(json.dumps(status, indent=2, ensure_ascii=False))
    else:
        _print_table(status)
    return 0


def _from_daemon(settings: Settings) -> dict[str, Any] | None:
    if not settings.control_socket:
        return None
    try:
        status: dict[str, Any] = ask(settings.control_socket, "status")
    except NotRunning:
        return None
    except ControlError as error:
        print(f"mig-device-plugin: {error}; this is a look of our own", file=sys.stderr)
        return None
    return status


def _from_driver(settings: Settings) -> dict[str, Any]:
    driver, _ = build_driver(settings)
    inventory = look(driver)
    return document(Snapshot(0, settings, inventory, advertise(inventory, settings)), "scan")


_STYLES = {"healthy": "green", "unhealthy": "red", "withheld": "yellow"}
_Json = Mapping[str, Any]


def _print_table(status: _Json) -> None:
    out = console()
    table = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False, header_style="bold"
    )
    for name in (
        "DEVICE",
        "UUID",
        "PROFILE",
        "GI/CI",
        "SLICES",
        "MEMORY",
        "NUMA",
        "NODES",
        "RESOURCE",
        "HEALTH",
    ):
        table.add_column(name, no_wrap=name not in {"HEALTH", "UUID", "NODES"}, overflow="fold")
    for gpu in status["gpus"]:
        table.add_row(*_gpu_row(gpu), style="dim")
        for device in gpu["migDevices"]:
            table.add_row(*_mig_row(gpu, device))
    if status["source"] == "daemon":
        out.print(f"as the running daemon sees it, generation {status['generation']}")
    driver = status["driver"]
    cuda = f", CUDA {driver['cuda']}" if driver["cuda"] else ""
    out.print(f"driver {driver['version'] or 'unknown'}{cuda}, strategy {status['strategy']}")
    out.print(table if status["gpus"] else "no GPUs")
    for name, counts in status["resources"].items():
        unhealthy = counts["devices"] - counts["healthy"]
        out.print(
            f"{name}: {counts['healthy']}"
            + (f" ([red]{unhealthy} unhealthy[/])" if unhealthy else "")
        )
    for problem in status["problems"]:
        out.print(f"[yellow]![/] {escape(problem)}")
    wanted = status.get("partition")
    if wanted and wanted["configuration"] is not None:
        style = "green" if wanted["state"] == "success" else "yellow"
        name = escape(wanted["configuration"])
        out.print(f"configuration {name}: [{style}]{wanted['state']}[/]")
        for gpu in wanted["gpus"]:
            if gpu["state"] != "applied":
                out.print(f"  {escape(line(gpu))}")


def _gpu_row(gpu: _Json) -> list[str]:
    return _row(gpu, str(gpu["index"]), gpu["product"], _mode(gpu["mig"]), "")


def _mig_row(gpu: _Json, device: _Json) -> list[str]:
    at = device["placement"]
    slices = f"{at['start']}:{at['size']}" if at else "?"
    path, instance = f"{gpu['index']}:{device['index']}", f"{device['gi']}/{device['ci']}"
    return _row(device, path, device["profile"] or "?", instance, slices)


def _row(device: _Json, path: str, profile: str, instance: str, slices: str) -> list[str]:
    health = ""
    if device["health"]:
        why = "; ".join(reason["text"] for reason in device["reasons"])
        health = f"[{_STYLES[device['health']]}]{device['health']}[/]" + (
            f": {escape(why)}" if why else ""
        )
    nodes = " ".join(node.rpartition("/")[2].removeprefix("nvidia-") for node in device["nodes"])
    return [
        path,
        device["uuid"],
        profile,
        instance,
        slices,
        f"{device['memoryMiB']} MiB",
        "-" if device["numa"] is None else str(device["numa"]),
        nodes,
        device["resource"] or "",
        health,
    ]


def _mode(mig: _Json | None) -> str:
    if mig is None:
        return "no MIG"
    mode = "MIG on" if mig["current"] else "MIG off"
    return (
        f"{mode}, {'on' if mig['pending'] else 'off'} pending"
        if mig["current"] != mig["pending"]
        else mode
    )
