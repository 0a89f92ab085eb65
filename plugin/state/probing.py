"""Probing the GPUs on a schedule, and when somebody asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from plugin.core.health.faults import watching
from plugin.driver.base import Driver, Probe
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.state.writer import Writer

#: Every how many probes one is thorough.
THOROUGH_EVERY = 15


async def probe_regularly(
    writer: Writer, driver: Driver, worker: DriverWorker, heartbeats: Heartbeats
) -> None:
    """Probe every GPU on schedule, or when the writer asks, until cancelled; what is found goes to
    the writer.
    """
    count = 0
    while True:
        settings = writer.store.snapshot.settings
        heartbeats.beat("probes", settings.probe_seconds)
        if watching(settings) and writer.is_open:
            thorough = count % THOROUGH_EVERY == 0
            count += 1
            heartbeats.beat("probes", LONGEST_JOB_SECONDS)
            # A round that hangs tells nothing of the GPUs; the worker tells of it.
            with contextlib.suppress(DriverUnavailable):
                writer.on_probes(
                    await worker.call(_probe_all, driver, writer.probe_targets(), thorough)
                )
            heartbeats.beat("probes", settings.probe_seconds)
        seconds = settings.probe_seconds
        look_again = writer.evaluate()
        if look_again is not None:
            seconds = min(seconds, max(look_again - writer.now(), 0.01))
        await writer.wait_for_probe_request(seconds)


def _probe_all(driver: Driver, gpus: Sequence[str], thorough: bool) -> list[Probe]:  # noqa: FBT001 — passed on
    return [driver.probe(gpu, thorough=thorough) for gpu in gpus]
