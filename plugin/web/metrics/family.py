"""A family of metrics: its name, kind, meaning and labels, and how it is filled from what it tells
of.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

PREFIX = "mig_device_plugin_"

_UNITS = frozenset({"bytes", "celsius", "hertz", "joules", "ratio", "seconds", "watts"})

#: Every series of one thing shares one of these, so that it is written out once; nobody changes
#: them.
Labels = dict[str, str]


class Kind(enum.StrEnum):
    """What a family's numbers are, in OpenMetrics' words. ``UNKNOWN`` is for foreign names that
    break its rules.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    UNKNOWN = "unknown"


_SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}


@dataclass(frozen=True, slots=True)
class Family:
    """``name`` is the whole name as it is queried: of counters with ``_total``, of infos with
    ``_info``.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()

    def metric(self) -> Metric:
        """The library's form of it, without samples."""
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

#: A family and what it reads of a subject; ``None`` makes no series.
Reading = tuple[Family, Callable[[T], float | None]]


def read(readings: Iterable[Reading[T]], subjects: Sequence[tuple[Labels, T]]) -> Iterator[Metric]:
    """Each family with one series for each subject that has a value."""
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
    """A family whose labels and values are known."""
    return read([(family, float)], list(series))
