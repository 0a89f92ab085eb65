"""Metric families, and how to fill them from what they describe."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

PREFIX = "mig_device_plugin_"

_UNITS = frozenset({"bytes", "celsius", "hertz", "joules", "ratio", "seconds", "watts"})

#: Series with equal labels share one object, which is formatted once; never modified.
Labels = dict[str, str]


class Kind(enum.StrEnum):
    """OpenMetrics' kinds. ``UNKNOWN`` is for foreign names that break its rules."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    UNKNOWN = "unknown"


_SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}


class Family(Struct, frozen=True):
    """``name`` is the full name: with ``_total`` for counters, ``_info`` for infos."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()

    def metric(self) -> Metric:
        """As the library's class, without samples."""
        base = self.name.removesuffix(_SUFFIXES.get(self.kind, ""))
        unit = base.rpartition("_")[2]
        return Metric(base, self.meaning, self.kind.value, unit if unit in _UNITS else "")


def gauge(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(PREFIX + name, Kind.GAUGE, meaning, labels)


def counter(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(PREFIX + name, Kind.COUNTER, meaning, labels)


def info(name: str, meaning: str, labels: tuple[str, ...]) -> Family:
    return Family(PREFIX + name, Kind.INFO, meaning, labels)


T = TypeVar("T")

#: (family, value of a subject); ``None`` gives no series.
Reading = tuple[Family, Callable[[T], float | None]]


def read(readings: Iterable[Reading[T]], subjects: Sequence[tuple[Labels, T]]) -> Iterator[Metric]:
    """Each family with a series for every subject that has a value."""
    for family, value_of in readings:
        metric, name = family.metric(), family.name
        metric.samples = [
            Sample(name, labels, value)
            for labels, subject in subjects
            if (value := value_of(subject)) is not None
        ]
        if metric.samples:
            yield metric


def filled(family: Family, series: Iterable[tuple[Labels, float]]) -> Iterator[Metric]:
    """A family with known labels and values."""
    return read([(family, float)], list(series))
