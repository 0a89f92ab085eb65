"""The composition root: builds everything the daemon is made of and runs it until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plugin
from plugin.config.load import Loaded
from plugin.control.server import Control
from plugin.control.verbs import Simulate
from plugin.core.settings import Settings
from plugin.core.view import View
from plugin.driver.base import Driver
from plugin.driver.files import DeviceFiles
from plugin.driver.worker import DriverWorker
from plugin.errors import ConfigError, PluginError, SimulationError
from plugin.loops.heartbeats import Heartbeats
from plugin.state.ledger_file import LedgerFile, boot_id
from plugin.state.probing import probe_regularly
from plugin.state.watching import Watcher
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

DEFAULT_LEDGER = "/var/lib/mig-device-plugin/ledger.json"
SIMULATED_LEDGER = "/run/mig-device-plugin/simulated-ledger.json"

#: What the web server leaves to the first registrations, which usually take less.
WEB_AFTER_SECONDS = 0.3

#: Changing one of these means another driver or another kubelet: that takes a restart.
_FIXED = (
    "simulate",
    "driver_root",
    "dev_root",
    "container_driver_root",
    "proc_root",
    "sys_root",
    "kubelet_socket",
    "control_socket",
    "ledger_file",
    "http_address",
    "http_tls_cert",
    "http_tls_key",
    "dcgm_names",
    "pod_resources_socket",
)


def build_driver(settings: Settings) -> Driver:
    """The driver that the settings ask for, not yet open. Raises ConfigError for a bad
    ``--simulate``.
    """
    if settings.simulate:
        from plugin.sim.driver import SimDriver  # noqa: PLC0415 — only one of the two drivers is ever needed
        from plugin.sim.hardware.engine import parse_node  # noqa: PLC0415

        try:
            return SimDriver(parse_node(settings.simulate))
        except SimulationError as error:
            raise ConfigError(f"--simulate: {error}") from error
    from plugin.driver.nvml import NvmlDriver  # noqa: PLC0415

    return NvmlDriver(device_files(settings), roots=library_roots(settings))


def simulated_verbs(settings: Settings, driver: Driver) -> Simulate | None:
    """What ``sim`` commands do to the simulated node; ``None`` on a real one."""
    if not settings.simulate:
        return None
    from plugin.sim.driver import SimDriver  # noqa: PLC0415 — loaded already, as the driver
    from plugin.sim.verbs import perform  # noqa: PLC0415 — nothing that a real node needs

    return functools.partial(perform, driver.engine) if isinstance(driver, SimDriver) else None


def library_roots(settings: Settings) -> tuple[Path, ...]:
    """Where to look for the driver's library before the loader does: the mounted root, or the root
    itself.
    """
    roots = [settings.container_driver_root]
    if settings.driver_root != "/":
        roots.append(settings.driver_root)
    return tuple(Path(root) for root in roots)


def device_files(settings: Settings) -> DeviceFiles:
    """Device nodes as this process sees them: below the mounted driver root, the root itself, or
    ``/``.
    """
    roots = [settings.host_dev_root, "/"]
    if settings.host_dev_root == settings.driver_root:
        roots.insert(0, settings.container_driver_root)
    return DeviceFiles(
        *map(Path, roots), proc=Path(settings.proc_root), sys=Path(settings.sys_root)
    )


@contextlib.contextmanager
def _ledger_path(settings: Settings) -> Iterator[Path]:
    """Where the ledger is kept; a simulated node's goes with the process, for it means nothing to
    the next one.
    """
    if settings.ledger_file or not settings.simulate:
        yield Path(settings.ledger_file or DEFAULT_LEDGER)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="mig-device-plugin-")
    except OSError:
        # A read-only root without /tmp: saving fails there too, and says so when there is something
        # to save.
        yield Path(SIMULATED_LEDGER)
        return
    with folder as name:
        yield Path(name) / "ledger.json"


def run(loaded: Loaded, reload: Callable[[], Loaded]) -> int:
    """Run the daemon; returns the exit status. `reload` reads the configuration again,
    for SIGHUP.
    """
    try:
        with _ledger_path(loaded.settings) as ledger:
            asyncio.run(_run(loaded, reload, ledger))
    except ConfigError:
        raise
    except PluginError as error:
        log.error("%s", error)  # noqa: TRY400 — the sentence is for the administrator, the traceback is not
        return 1
    except ExceptionGroup as group:
        expected, unexpected = group.split(PluginError)
        if expected is None or unexpected is not None:
            raise
        for reason in expected.exceptions:
            log.error("%s", reason)  # noqa: TRY400 — as above
        return 1
    return 0


async def _run(loaded: Loaded, reload: Callable[[], Loaded], ledger: Path) -> None:
    settings = loaded.settings
    log.info(
        "starting", extra={"version": plugin.__version__, "simulate": settings.simulate or None}
    )
    for warning in loaded.warnings:
        log.warning("%s", warning)
    driver, worker = build_driver(settings), DriverWorker()
    ledger_file = LedgerFile(ledger, boot_id(Path(settings.proc_root)))
    node = Writer(driver, worker, settings, ledger_file)
    starting = asyncio.create_task(node.start(), name="first scan")
    await asyncio.sleep(
        0
    )  # hands the first scan to the driver's thread, which works while we import

    importlib.import_module("plugin.kubelet.deviceplugin.supervisor")  # gRPC takes 70 ms to import

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reconfigure, node, reload)
    stopping = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # a driver that hangs in its first scan must not keep us
        starting.cancel()
        log.info("stopped")
        return
    await starting
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(part, name=name)
                for name, part in _parts(settings, node, driver, worker, ledger_file).items()
            ]
            await stop.wait()
            log.info("stopping")
            for task in running:
                task.cancel()
    finally:
        # The driver is not closed: that could hang as any call to it, and the kernel frees what a
        # process held.
        log.info("stopped")


def _parts(
    settings: Settings, node: Writer, driver: Driver, worker: DriverWorker, ledger_file: LedgerFile
) -> dict[str, Coroutine[Any, Any, None]]:
    """Everything that runs from now on, by name; when one fails,
    all end and the process with them.
    """
    from plugin.kubelet.deviceplugin.journal import Journal  # noqa: PLC0415 — gRPC is imported by now, see _run
    from plugin.kubelet.deviceplugin.supervisor import Supervisor  # noqa: PLC0415
    from plugin.kubelet.podresources.pods import PodFollower  # noqa: PLC0415
    from plugin.overview import Overview  # noqa: PLC0415
    from plugin.state.sampling import Sampler  # noqa: PLC0415

    journal, heartbeats = Journal(), Heartbeats()
    follower = (
        PodFollower(Path(settings.pod_resources_socket)) if settings.pod_resources_socket else None
    )
    on_allocated = follower.allocated if follower is not None else lambda: None
    supervisor = Supervisor(
        node.store, settings.kubelet_socket, journal=journal, on_allocated=on_allocated
    )
    sampler = Sampler(node, driver, worker, heartbeats)
    overview = Overview(node, supervisor, journal, sampler, worker, heartbeats, follower)
    parts = {
        "kubelet": supervisor.run(),
        "node": node.run(heartbeats),
        "events": Watcher(node, driver, worker, heartbeats).run(),
        "probes": probe_regularly(node, driver, worker, heartbeats),
        "ledger": ledger_file.run(),
    }
    if settings.control_socket:
        control = Control(Path(settings.control_socket), node, simulated_verbs(settings, driver))
        parts["control"] = control.run()
    if settings.http_address:
        parts["samples"] = sampler.run()
        parts["web"] = _serve_web(settings, overview)
        if follower is not None:
            parts["pods"] = follower.run()
    return parts


async def _serve_web(settings: Settings, overview: Callable[[], View]) -> None:
    """Metrics, probes and the page, after kubelet knows us: before that nobody looks."""
    await asyncio.sleep(WEB_AFTER_SECONDS)
    # 100 ms of imports, in a thread so that kubelet's calls are answered meanwhile.
    web = await asyncio.to_thread(importlib.import_module, "plugin.web")
    await web.serve(settings, overview)


def _reconfigure(node: Writer, reload: Callable[[], Loaded]) -> None:
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
    node.reconfigure(replace(loaded.settings, **{name: getattr(old, name) for name in _FIXED}))
    node.rescan()
