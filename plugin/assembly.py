"""The composition root: builds all that the daemon is made of."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from plugin.core.configuration import Configuration
from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.driver.files import DeviceFiles, FileSource
from plugin.driver.worker import Deadlines, DriverWorker
from plugin.errors import ConfigError, SimulationError
from plugin.loops.heartbeats import Heartbeats
from plugin.state.gate import Specify
from plugin.state.ledger_file import LedgerFile, boot_id
from plugin.state.writer import Writer

if TYPE_CHECKING:
    from plugin.control.verbs import Simulate
    from plugin.driver.nvml import Loader
    from plugin.kubelet.deviceplugin.supervisor import Supervisor
    from plugin.kubelet.podresources.pods import PodFollower
    from plugin.overview import Overview
    from plugin.partitioning import Partitioning
    from plugin.sim.hardware.engine import SimNode

log = logging.getLogger(__name__)

#: What the web server leaves to the first registrations, which usually take less.
WEB_AFTER_SECONDS = 0.3
#: A first scan that takes longer is worth a line of the log, and the web server waits no longer.
SLOW_START_SECONDS = 2.0


def build_driver(settings: Settings) -> tuple[Driver, Simulate | None]:
    """The driver that the settings ask for, not yet open, and what ``sim`` commands do to its
    hardware where that is simulated. Raises ConfigError for a bad ``--simulate``.
    """
    if settings.simulate:
        from plugin.sim.hardware.engine import parse_node  # noqa: PLC0415 — nothing of it is needed on a real node
        from plugin.sim.simulation import simulate  # noqa: PLC0415

        try:
            simulation = simulate(parse_node(settings.simulate))
        except SimulationError as error:
            raise ConfigError(f"--simulate: {error}") from error
        for note in simulation.node.notes:
            log.warning("not as recorded", extra={"difference": note})
        return simulation.driver, functools.partial(_simulated, simulation.node)
    from plugin.driver.nvml import NvmlDriver  # noqa: PLC0415 — other commands need no driver

    return NvmlDriver(device_files(settings), loader=library_loader(settings)), None


def _simulated(node: SimNode, verb: str, arguments: Sequence[str]) -> str:
    """Carry out a ``sim`` command."""
    from plugin.sim.verbs import perform  # noqa: PLC0415 — with the first command

    return perform(node, verb, arguments)


def library_loader(settings: Settings) -> Loader:
    """Looks for the driver's library below the mounted root and the root itself before the dynamic
    loader does.
    """
    from plugin.driver.nvml import Loader  # noqa: PLC0415 — not needed in a simulation

    roots = [settings.container_driver_root]
    if settings.driver_root != "/":
        roots.append(settings.driver_root)
    return Loader([Path(root) for root in roots], settings.library_folders)


def device_files(settings: Settings, source: FileSource | None = None) -> DeviceFiles:
    """Device nodes as this process sees them: below the mounted driver root, the root itself, or
    ``/``. Where the device root is another than the driver's, the host's ``/dev`` may still be
    mounted below the former: our own is a copy that was made when the container started.
    """
    mounted, on_host = Path(settings.container_driver_root), Path(settings.host_dev_root)
    same = Path(settings.driver_root) == on_host
    return DeviceFiles(
        *(mounted, on_host, Path("/")),
        proc=Path(settings.proc_root),
        sys=Path(settings.sys_root),
        source=source,
        host_roots=(mounted, on_host) if same else (on_host,),
    )


class Edges(Struct, frozen=True):
    """What speaks to the outside. ``loops`` run until cancelled, by name; when one fails, all end
    and the process with them.
    """

    supervisor: Supervisor
    overview: Overview
    partitioning: Partitioning
    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]


class Daemon(Struct, frozen=True):
    """The daemon without its edges. Made by :func:`assemble`, in tests too."""

    settings: Settings
    driver: Driver
    worker: DriverWorker
    heartbeats: Heartbeats
    ledger_file: LedgerFile
    writer: Writer
    simulate: Simulate | None
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Start the driver's thread and publish the first scan; see :meth:`Writer.start`."""
        self.worker.start()
        await self.writer.start()
        self.started.set()

    def edges(
        self, absent_level: int = logging.WARNING, choose: Callable[[str], None] | None = None
    ) -> Edges:
        """Build everything else. Imports gRPC and all that a first scan does not need, which takes
        100 ms: call it while that runs, or later. `absent_level` is the level at which a missing
        kubelet is logged; `choose` takes the value of the node's label that names the
        configuration.
        """
        from plugin import publishing  # noqa: PLC0415 — see above
        from plugin.core.holders import Holdings  # noqa: PLC0415
        from plugin.kubelet.deviceplugin.calls import CallCounts  # noqa: PLC0415
        from plugin.kubelet.deviceplugin.supervisor import Supervisor  # noqa: PLC0415
        from plugin.overview import Overview  # noqa: PLC0415
        from plugin.partitioning import Partitioning  # noqa: PLC0415
        from plugin.state.probing import probe_regularly  # noqa: PLC0415
        from plugin.state.sampling import Sampler  # noqa: PLC0415
        from plugin.state.specifying import specify_when_needed  # noqa: PLC0415
        from plugin.state.watching import Watcher  # noqa: PLC0415

        settings, writer, beats = self.settings, self.writer, self.heartbeats
        calls = CallCounts()
        pods = self._pods(absent_level)
        supervisor = Supervisor(
            writer.store,
            settings.kubelet_socket,
            calls=calls,
            on_allocated=pods.allocated if pods is not None else lambda _: None,
            absent_level=absent_level,
        )
        sampler = Sampler(writer, self.driver, self.worker, beats)
        ledger, holdings = self.ledger_file.path, pods.current if pods is not None else Holdings
        features = publishing.features_publisher(settings, writer.store, ledger, beats)
        partitioning = Partitioning(
            writer,
            self.driver,
            self.worker,
            beats,
            settings,
            ledger,
            supervisor,
            pods,
            evictor=lambda: publishing.evictor(settings, reporter),
        )
        reporter = publishing.reporter(
            settings, writer.store, ledger, holdings, supervisor.status, partitioning, choose
        )
        overview = Overview(
            writer,
            supervisor,
            calls,
            sampler,
            self.worker,
            beats,
            partitioning,
            pods,
            notes=lambda: tuple(
                each.problem
                for each in (partitioning, features)
                if each is not None and each.problem
            ),
            cluster=reporter.status if reporter is not None else lambda: None,
        )
        loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "kubelet": supervisor.run,
            "node": functools.partial(writer.run, beats),
            "events": Watcher(writer, self.driver, self.worker, beats).run,
            "probes": functools.partial(probe_regularly, writer, self.driver, self.worker, beats),
            "ledger": self.ledger_file.run,
            "cdi": functools.partial(specify_when_needed, writer),
            "partition": partitioning.run,
        }
        if features is not None:
            loops["features"] = features.run
        if reporter is not None:
            loops["cluster"] = reporter.run
        if settings.control_socket:
            from plugin.control.server import Control  # noqa: PLC0415 — only where there is one

            control = Control(
                Path(settings.control_socket),
                writer,
                self.simulate,
                holdings=holdings,
                partition=partitioning.perform,
            )
            loops["control"] = control.run
        if settings.http_address:
            loops["samples"] = sampler.run
            loops["web"] = functools.partial(_serve_web, settings, overview, self.started)
        if pods is not None and (settings.http_address or settings.node_events):
            from plugin.kubelet.podresources.client import allocatable  # noqa: PLC0415 — as there

            ask = functools.partial(allocatable, Path(settings.pod_resources_socket))
            loops["pods"] = functools.partial(pods.run, functools.partial(supervisor.compare, ask))
        return Edges(supervisor, overview, partitioning, loops)

    def _pods(self, absent_level: int) -> PodFollower | None:
        """Who holds devices, where kubelet is asked for it."""
        if not self.settings.pod_resources_socket:
            return None
        from plugin.kubelet.podresources.observer import Observer  # noqa: PLC0415 — off for some
        from plugin.kubelet.podresources.pods import PodFollower  # noqa: PLC0415

        return PodFollower(Observer.of(self.settings), absent_level=absent_level)


def assemble(
    settings: Settings,
    driver: Driver,
    ledger: Path,
    simulate: Simulate | None = None,
    deadlines: Deadlines | None = None,
    specify: Specify | None = None,
    configuration: Configuration | None = None,
) -> Daemon:
    """Build the daemon over a driver that need not be open; nothing runs yet. `simulate` is what
    ``sim`` commands do to simulated hardware; `deadlines` say when a call of the driver hangs;
    `specify` writes the CDI specification. `configuration` says where the settings are from.
    """
    worker = DriverWorker(driver.hangs, deadlines)
    ledger_file = LedgerFile(ledger, boot_id(Path(settings.proc_root)))
    writer = Writer(
        driver, worker, settings, ledger_file, specify=specify, configuration=configuration
    )
    return Daemon(settings, driver, worker, Heartbeats(), ledger_file, writer, simulate)


async def _serve_web(settings: Settings, overview: Overview, started: asyncio.Event) -> None:
    """Metrics, probes and the page, after kubelet knows us: before that nobody looks. A first scan
    that takes its time is not waited for.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SLOW_START_SECONDS):
            await started.wait()
    await asyncio.sleep(WEB_AFTER_SECONDS)
    # 100 ms of imports, in a thread so that kubelet's calls are answered meanwhile.
    web = await asyncio.to_thread(importlib.import_module, "plugin.web")  # noqa: TID251 — an import
    await web.serve(settings, overview, overview.looked)
