"""Checks of what is around the driver, for ``doctor``: kubelet, other plugins, our own rights, the
container runtime.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from plugin.commands.check import Check, Outcome, shortened
from plugin.core.settings import Settings
from plugin.kubelet.deviceplugin.conflicts import Conflict, conflicts, live_sockets
from plugin.kubelet.deviceplugin.rivals import accepts_connections

#: Below this many inotify instances, other software on the node can leave none for us.
_FEW_INOTIFY_INSTANCES = 128
_RUNTIME_CONFIGS = ("/etc/containerd/config.toml", "/etc/docker/daemon.json", "/etc/crio/crio.conf")


def host_checks(settings: Settings) -> Iterator[Check]:
    """Kubelet, our own rights, the container runtime."""
    yield from _kubelet(settings)
    yield from _permissions(settings)
    yield from _runtime(settings)


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
    elif not socket.is_socket():
        yield Check(
            "kubelet",
            Outcome.WARN,
            f"{socket} is no socket",
            "start kubelet; the daemon waits for it",
        )
    elif not accepts_connections(socket):  # a kubelet that was killed leaves its socket
        yield Check(
            "kubelet",
            Outcome.WARN,
            f"nothing listens at {socket}",
            "start kubelet; the daemon waits for it",
        )
    else:
        yield Check("kubelet", Outcome.PASS, str(socket))


def rival_checks(resources: tuple[str, ...], settings: Settings) -> Iterator[Check]:
    """Others that serve these resources, by the sockets in kubelet's directory."""
    folder = Path(settings.kubelet_socket).parent if settings.kubelet_socket else None
    if folder is None or not os.access(folder, os.R_OK | os.X_OK):
        return
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
    if settings.by_cdi:
        yield Check(
            "container runtime",
            Outcome.PASS,
            "containers get devices by CDI: containerd 1.7 with enable_cdi = true, containerd 2.0, "
            "CRI-O 1.23 or later",
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
