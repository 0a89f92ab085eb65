"""The daemon as a process: what it starts with, the order of its start, signals and exit status."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import plugin
from plugin import specification
from plugin.assembly import SLOW_START_SECONDS, Daemon, assemble, build_driver
from plugin.config.load import CommandLine
from plugin.core.settings import Settings
from plugin.errors import ConfigError, PluginError
from plugin.following.follower import Follower, Read
from plugin.following.kept_file import KeptFile, kept_file
from plugin.following.label_file import LabelFile
from plugin.following.start import LABEL_FILE, Start, begin, newest
from plugin.state.places import ledger_path

log = logging.getLogger(__name__)

#: Loops that need no scan.
_EARLY = ("ledger", "web")


def run(line: CommandLine) -> int:
    """Run the daemon; returns the exit status. Raises :class:`ConfigError`."""
    # Nobody but us writes to what we make, be it a folder or gRPC's socket, whatever we were
    # started with.
    os.umask(os.umask(0o077) | 0o022)
    try:
        alone, first = line.alone(), newest(line)
        kept = kept_file(alone)
        with ledger_path(alone if isinstance(first, ConfigError) else first.settings) as ledger:
            start = begin(line, first, LabelFile(ledger.with_name(LABEL_FILE)), kept)
            asyncio.run(_run(start, line.read, ledger, kept))
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


async def _run(start: Start, read: Read, ledger: Path, kept: KeptFile | None) -> None:
    settings = start.loaded.settings
    driver, simulate = build_driver(settings)
    log.info(
        "starting", extra={"version": plugin.__version__, "simulate": settings.simulate or None}
    )
    for warning in start.loaded.warnings:
        log.warning("%s", warning)
    specify = specification.Specification(specification.directory(settings, ledger), ledger)
    daemon = assemble(
        settings, driver, ledger, simulate, specify=specify, configuration=start.configuration
    )
    follower = Follower(daemon.writer, read, start, ledger, kept)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, follower.reread)
    try:
        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(daemon.start(), name="first scan")
            # Hands the first scan to the driver's thread, which works while we import.
            await asyncio.sleep(0)
            edges = daemon.edges(_absent_level(settings), follower.choose)
            parts = dict(edges.loops)
            running = [starting]
            running += [
                tasks.create_task(parts.pop(name)(), name=name) for name in _EARLY if name in parts
            ]
            # A driver that hangs in its first scan must not keep us.
            if await _started(daemon, stop):
                running.append(tasks.create_task(parts.pop("partition")(), name="partition"))
                # Before anything is registered: a reboot loses instances.
                await _either(edges.partitioning.started(), stop)
                running += [tasks.create_task(part(), name=name) for name, part in parts.items()]
                running.append(tasks.create_task(follower.run(), name="configuration"))
                await stop.wait()
                log.info("stopping")
            for task in running:
                task.cancel()
    finally:
        # The driver is not closed: that could hang as any call to it, and the kernel frees what a
        # process held.
        log.info("stopped")


def _absent_level(settings: Settings) -> int:
    """At which level to log that kubelet is missing. Where a node is only simulated nothing
    is wrong then: one line, and the parts stay quiet.
    """
    path = settings.kubelet_socket
    # Unlike Path's, this is false also where we may not look.
    if not settings.simulate or not path or os.path.exists(path):  # noqa: PTH110
        return logging.WARNING
    log.info(
        "no kubelet here, devices are registered once its socket exists", extra={"socket": path}
    )
    return logging.DEBUG


async def _started(daemon: Daemon, stop: asyncio.Event) -> bool:
    """Wait for the first scan, and report what it waits for; tells whether it came before the
    signal to stop.
    """
    ends = [asyncio.create_task(event.wait()) for event in (daemon.started, stop)]
    try:
        done, _ = await asyncio.wait(
            ends, timeout=SLOW_START_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            call = daemon.worker.call_in_flight
            log.warning(
                "waiting for the driver",
                extra={
                    "call": call.function if call is not None else None,
                    "gpu": call.gpu.index if call is not None and call.gpu is not None else None,
                },
            )
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return not stop.is_set()
    finally:
        for end in ends:
            end.cancel()


async def _either(done: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Until that is done, or the signal to stop."""
    ends = [asyncio.create_task(done), asyncio.create_task(stop.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
