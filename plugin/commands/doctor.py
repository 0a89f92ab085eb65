"""``doctor``: is everything here that the plugin needs, and if not, what to do."""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from plugin.app import build_driver, device_files, library_roots
from plugin.commands.look import load, look
from plugin.commands.terminal import console
from plugin.config.load import Loaded
from plugin.core.advertise.advertisement import advertise
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.errors import DriverUnavailable

if TYPE_CHECKING:
    from plugin.kubelet.deviceplugin.conflicts import Conflict

#: Below this many inotify instances, other software on the node can leave none for us.
_FEW_INOTIFY_INSTANCES = 128
_MOST_SHOWN = 4
_RUNTIME_CONFIGS = ("/etc/containerd/config.toml", "/etc/docker/daemon.json", "/etc/crio/crio.conf")


class Outcome(enum.IntEnum):
    """Ordered by severity; the value is the exit status."""

    PASS = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One answer; ``fix`` says what to do about anything but a pass."""

    name: str
    outcome: Outcome
    detail: str
    fix: str = ""


_STYLES = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


def examine(loaded: Loaded) -> int:
    """Print every check; returns the worst outcome as exit status."""
    out = console()
    worst = Outcome.PASS
    for check in checks(loaded):
        worst = max(worst, check.outcome)
        style = _STYLES[check.outcome]
        out.print(
            f"[{style}]{check.outcome.name.lower():<4}[/]  {check.name + ':':<18} "
            f"{escape(check.detail)}"
        )
        if check.fix:
            out.print(f"      {'':<18} [dim]fix:[/] {escape(check.fix)}")
    return worst


def checks(loaded: Loaded) -> Iterator[Check]:
    settings = loaded.settings
    for warning in loaded.warnings:
        yield Check("configuration", Outcome.WARN, warning, "remove the setting")
    yield from _library(settings)
    driver, _ = build_driver(settings)
    try:
        inventory = look(driver)
    except DriverUnavailable as error:
        yield Check("driver", Outcome.FAIL, error.what, error.fix or "see the kernel log")
    else:
        yield from node_checks(inventory, settings)
    yield from host_checks(settings)


def node_checks(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    """What the driver answered, judged."""
    yield Check(
        "driver", Outcome.PASS, f"version {inventory.driver_version}, NVML {inventory.nvml_version}"
    )
    yield from _hardware(inventory)
    yield from _resources(inventory, settings)
    yield from _nodes(inventory, settings)
    yield from _rivals(tuple(advertise(inventory, settings).resources), settings)


def host_checks(settings: Settings) -> Iterator[Check]:
    """What is around the driver: kubelet, our own rights, the container runtime."""
    yield from _kubelet(settings)
    yield from _permissions(settings)
    yield from _runtime(settings)


def _library(settings: Settings) -> Iterator[Check]:
    if settings.simulate:
        yield Check("library", Outcome.PASS, f"not needed: simulating {settings.simulate}")
        return
    from plugin.driver.nvml import Loader  # noqa: PLC0415 — not needed in a simulation

    loader = Loader(library_roots(settings))
    try:
        load(loader.load)
    except DriverUnavailable as error:
        yield Check("library", Outcome.FAIL, error.what, error.fix)
    else:
        found = str(loader.path) if loader.path else "the one on the loader's path"
        yield Check("library", Outcome.PASS, found)


def _hardware(inventory: Inventory) -> Iterator[Check]:
    for warning in inventory.warnings():
        yield Check(
            "hardware",
            Outcome.FAIL,
            warning,
            "see dmesg for NVRM messages; a lost GPU needs a reset or reboot",
        )
    if not inventory.gpus:
        yield Check(
            "GPUs",
            Outcome.FAIL,
            "none found",
            "check lspci, and that this container sees the driver",
        )
        return
    products: dict[str, int] = {}
    for gpu in inventory.gpus:
        products[gpu.product] = products.get(gpu.product, 0) + 1
        if gpu.error:
            yield Check("GPU", Outcome.FAIL, gpu.error, "see dmesg for NVRM messages")
    yield Check(
        "GPUs", Outcome.PASS, ", ".join(f"{count} × {name}" for name, count in products.items())
    )
    on = [gpu.path for gpu in inventory.gpus if gpu.mig_enabled]
    devices = sum(len(gpu.mig_devices) for gpu in inventory.gpus)
    pending = [gpu.path for gpu in inventory.gpus if gpu.mig_pending]
    if not any(gpu.mig for gpu in inventory.gpus):
        yield Check("MIG", Outcome.PASS, "these GPUs have no MIG")
    elif pending:
        yield Check(
            "MIG",
            Outcome.WARN,
            f"mode change pending on GPU {', '.join(pending)}",
            "reset these GPUs",
        )
    else:
        yield Check(
            "MIG",
            Outcome.PASS,
            f"on for {len(on)} of {len(inventory.gpus)} GPUs, {devices} MIG devices",
        )


def _resources(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    advertisement = advertise(inventory, settings)
    for problem in advertisement.problems:
        yield Check(
            "strategy",
            Outcome.WARN,
            problem,
            "change the geometry, or choose another --mig-strategy",
        )
    if advertisement.resources:
        found = ", ".join(f"{len(ids)} × {name}" for name, ids in advertisement.resources.items())
        yield Check("resources", Outcome.PASS, found)
    else:
        yield Check("resources", Outcome.FAIL, "nothing would be advertised", "see the lines above")


def _nodes(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    of_gpus = list(
        dict.fromkeys(path for gpu in inventory.gpus for path in gpu.missing_device_nodes)
    )
    capabilities = [
        path
        for path in dict.fromkeys(
            path for device in inventory.devices() for path in device.missing_device_nodes
        )
        if path not in of_gpus
    ]
    where = "simulated" if settings.simulate else f"below {device_files(settings).root}"
    verdict = Outcome.FAIL if settings.pass_device_specs else Outcome.WARN
    for name, missing in (("device nodes", of_gpus), ("capability nodes", capabilities)):
        if missing:
            yield Check(
                name,
                verdict,
                f"missing {where}: {shortened(missing)}",
                "run `nvidia-smi` on the host, which creates them; mount its /dev here, see "
                "--dev-root",
            )
    if not of_gpus and not capabilities:
        yield Check("device nodes", Outcome.PASS, f"all there ({where})")
    expected = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"} - set(
        inventory.control_nodes
    )
    if expected:
        yield Check(
            "control nodes",
            Outcome.WARN,
            f"missing {where}: {', '.join(sorted(expected))}",
            "run `nvidia-modprobe -u -c 0` on the host",
        )


def _kubelet(settings: Settings) -> Iterator[Check]:
    if not settings.kubelet_socket:
        yield Check(
            "kubelet",
            Outcome.WARN,
            "no registration, --kubelet-socket is empty",
            "name kubelet's socket",
        )
        return
    socket = Path(settings.kubelet_socket)
    absent = Outcome.WARN if settings.simulate else Outcome.FAIL
    if not socket.parent.is_dir():
        yield Check(
            "kubelet",
            absent,
            f"{socket.parent} does not exist",
            "mount it from the host, see --kubelet-socket",
        )
    elif not os.access(socket.parent, os.W_OK | os.X_OK):
        yield Check(
            "kubelet",
            absent,
            f"{socket.parent} is not writable for user {os.getuid()}",
            "run as root",
        )
    elif not socket.exists() or not stat.S_ISSOCK(socket.stat().st_mode):
        yield Check(
            "kubelet",
            Outcome.WARN,
            f"{socket} is no socket",
            "start kubelet; the daemon waits for it",
        )
    else:
        yield Check("kubelet", Outcome.PASS, str(socket))


def _rivals(resources: tuple[str, ...], settings: Settings) -> Iterator[Check]:
    """Others that serve these resources, by the sockets in kubelet's directory."""
    folder = Path(settings.kubelet_socket).parent if settings.kubelet_socket else None
    if folder is None or not os.access(folder, os.R_OK | os.X_OK):
        return
    from plugin.kubelet.deviceplugin.conflicts import conflicts, live_sockets  # noqa: PLC0415 — for this check only

    found = conflicts(live_sockets(folder), resources)
    for conflict in found:
        yield conflict_check(conflict, folder)
    if not found:
        yield Check("other plugins", Outcome.PASS, "none whose socket's name shows these resources")


def conflict_check(conflict: Conflict, folder: Path) -> Check:
    """What is wrong with sockets in `folder` that serve the same resources, and what to remove."""
    served = shortened(conflict.resources)
    sockets = f"{shortened(conflict.sockets)} in {folder}"
    if not conflict.daemons:
        return Check(
            "other plugins",
            Outcome.FAIL,
            f"NVIDIA's device plugin serves {served}: {sockets}",
            "remove it from this node: its DaemonSet, its Helm release, or with the GPU operator "
            "by devicePlugin.enabled=false",
        )
    if conflict.update:
        return Check(
            "other plugins",
            Outcome.WARN,
            f"{conflict.daemons} daemons serve {served}, as during an update: {sockets}",
            "look again in a minute",
        )
    return Check(
        "other plugins",
        Outcome.FAIL,
        f"{conflict.daemons} daemons of this plugin serve {served}: {sockets}",
        "keep one: uninstall the other release (`helm list -A`), or stop the daemon that was "
        "started by hand",
    )


def shortened(names: Collection[str]) -> str:
    """The first of them, and how many more there are."""
    first = ", ".join(list(names)[:_MOST_SHOWN])
    return first + (f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else "")


def _permissions(settings: Settings) -> Iterator[Check]:
    if os.getuid() != 0:
        yield Check(
            "permissions",
            Outcome.WARN,
            f"user {os.getuid()}",
            "run as root: kubelet's directory is root's alone",
        )
    else:
        yield Check("permissions", Outcome.PASS, "root")
    limit = Path(settings.proc_root) / "sys/fs/inotify/max_user_instances"
    try:
        instances = int(limit.read_text())
    except (OSError, ValueError):
        return
    if instances < _FEW_INOTIFY_INSTANCES:
        yield Check(
            "inotify",
            Outcome.WARN,
            f"max_user_instances is {instances}; without one the daemon polls twice a second",
            "sysctl fs.inotify.max_user_instances=1024",
        )


def _runtime(settings: Settings) -> Iterator[Check]:
    if settings.simulate:
        # Its device nodes are on no machine: advice about them would keep pods from starting.
        yield Check(
            "container runtime", Outcome.PASS, f"not needed: simulating {settings.simulate}"
        )
        return
    configured = [name for name in _RUNTIME_CONFIGS if _mentions_nvidia(Path(name))]
    if settings.pass_device_specs:
        yield Check(
            "container runtime",
            Outcome.PASS,
            "device nodes are given to kubelet, so containers keep them over `systemctl "
            "daemon-reload`"
            + (
                f"; NVIDIA's runtime is configured in {', '.join(configured)}" if configured else ""
            ),
        )
    else:
        yield Check(
            "container runtime",
            Outcome.WARN,
            "without --pass-device-specs containers can lose their GPU at `systemctl daemon-reload`"
            + ("" if configured else ", and no NVIDIA runtime configuration is visible from here"),
            "set --pass-device-specs (PASS_DEVICE_SPECS=true)",
        )


def _mentions_nvidia(path: Path) -> bool:
    try:
        return "nvidia" in path.read_text(errors="replace")
    except OSError:
        return False
