"""Metrics of partitioning: no series while no configuration was ever wanted."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from plugin.core.view import View
from plugin.web.metrics.family import Family, counter, filled, gauge

STATE = gauge(
    "partition_state", "The configuration that is wanted, and its state", ("configuration", "state")
)
GPUS = gauge(
    "partition_gpus", "GPUs that the wanted configuration names, by their state", ("state",)
)
STEPS = counter("partition_steps_total", "Steps that were tried, by kind", ("step",))
FAILURES = counter("partition_step_failures_total", "Steps that had no effect, by kind", ("step",))
RESULTS = counter("partition_results_total", "What became of GPUs that were changed", ("result",))
DURATION = gauge(
    "partition_last_apply_seconds", "How long the wanted configuration took to be applied"
)
WAITING = counter("partition_waiting_seconds_total", "Time spent waiting for devices in use")
APPLYING = counter("partition_applying_seconds_total", "Time spent changing GPUs")

FAMILIES: tuple[Family, ...] = (
    STATE,
    GPUS,
    STEPS,
    FAILURES,
    RESULTS,
    DURATION,
    WAITING,
    APPLYING,
)


def collect(view: View) -> Iterator[Metric]:
    progress = view.partition
    if progress is None:
        return
    # Loaded by whatever has made the progress.
    from plugin.core.partition.progress import GpuState, State  # noqa: PLC0415
    from plugin.core.partition.steps import KINDS  # noqa: PLC0415

    counts = progress.counts
    states = [gpu.state for gpu in progress.gpus]
    lasted = max(0.0, view.now - progress.since)
    labels = {"configuration": progress.configuration, "state": progress.state.value}
    yield from filled(STATE, [(labels, 1)])
    yield from filled(GPUS, [({"state": each.value}, states.count(each)) for each in GpuState])
    kinds = KINDS.values()
    yield from filled(STEPS, [({"step": kind}, counts.steps.get(kind, 0)) for kind in kinds])
    yield from filled(FAILURES, [({"step": kind}, counts.failures.get(kind, 0)) for kind in kinds])
    results = {
        "applied": counts.applied,
        "rolled-back": counts.rolled_back,
        "failed": counts.failed,
    }
    yield from filled(RESULTS, [({"result": name}, count) for name, count in results.items()])
    if progress.seconds is not None:
        yield from filled(DURATION, [({}, progress.seconds)])
    waiting = lasted if progress.state is State.WAITING else 0.0
    applying = lasted if progress.state is State.APPLYING else 0.0
    yield from filled(WAITING, [({}, counts.waiting_seconds + waiting)])
    yield from filled(APPLYING, [({}, counts.applying_seconds + applying)])
