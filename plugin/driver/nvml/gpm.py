"""Activity of a GPU or a GPU instance through GPU performance monitoring (GPM): what lies between
two samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pynvml

from plugin.core.inventory.samples import Activity
from plugin.driver.nvml.library import call
from plugin.errors import DriverCallFailed

#: Metrics that are shares of time, by the field that holds each. NVML answers in percent, within
#: some 2 µs.
_QUICK = {
    "sm_active": pynvml.NVML_GPM_METRIC_SM_UTIL,
    "sm_occupancy": pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    "tensor_active": pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    "dram_active": pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
}

#: This one took 1,450 µs on an H100, whether asked for alone or with the others.
_SLOW = {"graphics_active": pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL}

#: So it is asked for once in so many rounds, over all of them: more would make a node's many
#: instances cheaper, and the answer older.
SLOW_ROUNDS = 5


class ActivityMeter:
    """Activity of one GPU or GPU instance from round to round.

    Keeps the samples of the last round and of the last that asked for the slow metric. They are the
    library's memory: :meth:`close` frees them, which it wants before it is shut down.
    """

    def __init__(self, turn: int) -> None:
        """`turn` is the number of the round, of every five, that asks for the slow metric."""
        self._turn = turn % SLOW_ROUNDS
        self._rounds = 0
        self._last: Any = None
        self._since: Any = None
        self._spares: list[Any] = []
        self._slow: dict[str, float | None] = {}

    def read(self, take: Callable[[Any], Any | None]) -> Activity:
        """Activity since the last round that answered; nothing is known in the first.

        `take` fills a buffer with a sample and answers ``None`` when it could not.
        """
        try:
            if not self._spares:
                self._spares.append(call("making a sample", pynvml.nvmlGpmSampleAlloc))
            if take(self._spares[-1]) is None:
                return Activity()
            now, before, since = self._spares.pop(), self._last, self._since
            in_turn = self._rounds < 2 or self._rounds % SLOW_ROUNDS == self._turn  # noqa: PLR2004 — it takes two
            self._rounds += 1
            self._last = now
            self._since = now if in_turn else since
            self._spares += {
                id(old): old for old in (before, since) if not self._keeps(old)
            }.values()
            if before is None:
                return Activity()
            if in_turn:
                self._slow = _between(since, now, _SLOW)
            return Activity(**_between(before, now, _QUICK), **self._slow)
        except DriverCallFailed as error:
            if error.gpu_lost:
                raise
            return Activity()

    def close(self) -> None:
        """Free the samples; never raises."""
        held = {
            id(sample): sample
            for sample in (self._last, self._since, *self._spares)
            if sample is not None
        }
        self._last = self._since = None
        self._spares = []
        for sample in held.values():
            try:
                call("freeing a sample", pynvml.nvmlGpmSampleFree, sample)
            except DriverCallFailed:
                continue  # the driver went away, and the sample with it

    def _keeps(self, sample: Any) -> bool:
        return sample is None or sample is self._last or sample is self._since


def _between(before: Any, after: Any, metrics: dict[str, int]) -> dict[str, float | None]:
    """Shares between two samples. Some need 50 ms between them, or have none."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.sample1, request.sample2 = before, after
    request.numMetrics = len(metrics)
    asked = request.metrics[: len(metrics)]
    for metric, number in zip(asked, metrics.values(), strict=True):
        metric.metricId = number
    call("comparing samples", pynvml.nvmlGpmMetricsGet, request)
    return {name: _share(metric) for name, metric in zip(metrics, asked, strict=True)}


def _share(metric: Any) -> float | None:
    """0..1. Rounding may lead out of it, and over too short a time there is no number."""
    if metric.nvmlReturn != pynvml.NVML_SUCCESS or not math.isfinite(metric.value):
        return None
    return float(min(1.0, max(0.0, metric.value / 100)))
