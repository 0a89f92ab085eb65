"""What a measurement gives: samples of one quantity, and the budget that they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import Literal

Statistic = Literal["p50", "p99", "max"]

#: A percentile of fewer samples than this would be their maximum by another name.
ENOUGH_FOR_P99 = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    ``samples`` are in ``unit``. ``budget`` maps a statistic to what it must stay below, in the same
    unit; a row without one is there for comparison. ``note`` says what a reader must know to read
    the number right.
    """

    what: str
    unit: str
    samples: tuple[float, ...]
    budget: Mapping[Statistic, float] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.what}: nothing was measured")

    def value(self, statistic: Statistic) -> float:
        """A statistic of the samples; p99 by nearest rank."""
        match statistic:
            case "p50":
                return median(self.samples)
            case "p99":
                return sorted(self.samples)[-(-99 * len(self.samples) // 100) - 1]
            case "max":
                return max(self.samples)

    def over(self) -> bool:
        """Whether a statistic is not below its budget."""
        return any(self.value(name) >= limit for name, limit in self.budget.items())
