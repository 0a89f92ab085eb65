"""What a process holds on to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Resident memory in MiB, open file descriptors, threads."""

    memory: float
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.memory:.1f} MiB, {self.descriptors} file descriptors, {self.threads} threads"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much more a process may hold at the end than after the warm-up.

    Memory comes back late: allocators keep arenas, and the ledger keeps what it knows of devices
    that were destroyed for a day. Descriptors and threads vary with a connection more or less.
    """

    memory: float = 8.0
    descriptors: int = 6
    threads: int = 3


def usage(pid: int) -> Usage:
    process = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1)
        for line in (process / "status").read_text(encoding="utf-8").splitlines()
        if ":" in line
    )
    return Usage(
        memory=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=sum(1 for _ in (process / "fd").iterdir()),
        threads=int(status["Threads"]),
    )


def grown(before: Usage, after: Usage, allowed: Allowance) -> list[str]:
    """What has grown beyond its allowance."""
    found = []
    if after.memory > before.memory + allowed.memory:
        found.append(f"memory: {before.memory:.1f} → {after.memory:.1f} MiB")
    if after.descriptors > before.descriptors + allowed.descriptors:
        found.append(f"file descriptors: {before.descriptors} → {after.descriptors}")
    if after.threads > before.threads + allowed.threads:
        found.append(f"threads: {before.threads} → {after.threads}")
    return found
