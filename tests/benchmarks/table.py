"""The table of results."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.benchmarks.row import ENOUGH_FOR_P99, Row, Statistic

#: Wide enough for every column where the output is not a terminal.
_WIDTH = 160


def show(rows: Sequence[Row], failures: Mapping[str, str]) -> None:
    """Print the rows and, below them, what could not be measured and why."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    table = Table(
        title="Eight simulated A100s as 56 × 1g.5gb: the NVML driver over the simulated library",
        caption=_machine(),
        caption_justify="left",
    )
    for heading in ("what", "median", "p99", "min – max", "n", "budget", "", "note"):
        table.add_column(heading, justify="left" if heading in {"what", "", "note"} else "right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for name, reason in failures.items():
        console.print(f"{name} could not be measured: {reason}", style="bold red", markup=False)


def _machine() -> str:
    """What the numbers depend on; a load well above zero means that others had a share of the
    processors.
    """
    return (
        f"Python {platform.python_version()}, gRPC {version('grpcio')}, Linux {platform.release()} "
        f"on {platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, "
        f"load average {os.getloadavg()[0]:.1f}"
    )


def _cells(row: Row) -> tuple[str | Text, ...]:
    many = len(row.samples) > 1
    return (
        row.what,
        _amount(row.value("p50"), row.unit),
        _amount(row.value("p99"), row.unit) if len(row.samples) >= ENOUGH_FOR_P99 else "",
        f"{_number(min(row.samples))} – {_number(max(row.samples))}" if many else "",
        str(len(row.samples)),
        ", ".join(
            f"{_name(name, many=many)}< {limit:,g} {row.unit}" for name, limit in row.budget.items()
        ),
        _verdict(row),
        row.note,
    )


def _name(statistic: Statistic, *, many: bool) -> str:
    return f"{statistic} " if many else ""


def _verdict(row: Row) -> Text:
    if not row.budget:
        return Text("")
    return Text("over", style="bold yellow") if row.over() else Text("ok", style="green")


def _amount(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Three figures, which is more than a repetition would confirm."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"
