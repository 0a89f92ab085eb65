"""The composition root: builds everything the daemon is made of and runs it until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import plugin
from plugin.config import Loaded
from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.driver.files import DeviceFiles
from plugin.driver.worker import DriverWorker
from plugin.errors import ConfigError, PluginError
from plugin.node import Node

log = logging.getLogger(__name__)

#: Changing one of these means another driver or another kubelet: that takes a restart.
_FIXED = ("simulate", "driver_root", "dev_root", "container_driver_root", "proc_root", "sys_root", "kubelet_socket")


def build_driver(settings: Settings) -> Driver:
    """The driver that the settings ask for, not yet open. Raises SimulationError for a bad ``--simulate``."""
    if settings.simulate:
        from plugin.sim.driver import SimDriver  # noqa: PLC0415 — only one of the two drivers is ever needed
        from plugin.sim.engine import parse_node  # noqa: PLC0415

        return SimDriver(parse_node(settings.simulate))
    from plugin.driver.nvml import NvmlDriver  # noqa: PLC0415

    return NvmlDriver(device_files(settings), roots=library_roots(settings))


def library_roots(settings: Settings) -> tuple[Path, ...]:
    """Where to look for the driver's library before the loader does: the mounted root, or the root itself."""
    roots = [settings.container_driver_root]
    if settings.driver_root != "/":
        roots.append(settings.driver_root)
    return tuple(Path(root) for root in roots)


def device_files(settings: Settings) -> DeviceFiles:
    """Device nodes as this process sees them: below the mounted driver root, the root itself, or ``/``."""
    roots = [settings.host_dev_root, "/"]
    if settings.host_dev_root == settings.driver_root:
        roots.insert(0, settings.container_driver_root)
    return DeviceFiles(*map(Path, roots), proc=Path(settings.proc_root), sys=Path(settings.sys_root))


def run(loaded: Loaded, reload: Callable[[], Loaded]) -> int:
    """Run the daemon; returns the exit status. `reload` reads the configuration again, for SIGHUP."""
    try:
        asyncio.run(_run(loaded, reload))
    except PluginError as error:
        log.error("%s", error)  # noqa: TRY400 — the sentence is for the administrator, the traceback is not
        return 1
    return 0


async def _run(loaded: Loaded, reload: Callable[[], Loaded]) -> None:
    settings = loaded.settings
    log.info("starting", extra={"version": plugin.__version__, "simulate": settings.simulate or None})
    for warning in loaded.warnings:
        log.warning("%s", warning)
    node = Node(build_driver(settings), DriverWorker(), settings)
    starting = asyncio.create_task(node.start(), name="first scan")
    await asyncio.sleep(0)  # hands the first scan to the driver's thread, which works while we import

    from plugin.kubelet.supervisor import Supervisor  # noqa: PLC0415 — gRPC takes 70 ms to import

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reconfigure, node, reload)
    await starting
    supervisor = Supervisor(node.store, settings.kubelet_socket)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(supervisor.run(), name="kubelet"),
                tasks.create_task(node.run(), name="node"),
            ]
            await stop.wait()
            log.info("stopping")
            for task in running:
                task.cancel()
    finally:
        # In the driver's thread and without waiting for it: a hung driver must not keep us from going.
        closing = asyncio.create_task(node.close(), name="close the driver")
        await asyncio.wait({closing}, timeout=0.2)
    log.info("stopped")


def _reconfigure(node: Node, reload: Callable[[], Loaded]) -> None:
    """SIGHUP: a bad configuration changes nothing."""
    try:
        loaded = reload()
    except ConfigError as error:
        log.error("configuration not taken, the old one stays", extra={"reason": str(error)})  # noqa: TRY400
        return
    old = node.store.snapshot.settings
    for name in _FIXED:
        if getattr(old, name) != getattr(loaded.settings, name):
            log.warning("%s changed; that takes effect after a restart", name)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    log.info("configuration read again")
    node.reconfigure(loaded.settings)
    node.rescan()
