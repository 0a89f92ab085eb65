"""What the log says: one line for each thing that happened or is new, with the generation it
belongs to.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from plugin.core.advertise.advertisement import Listed
from plugin.core.health.faults import Fault, Severity
from plugin.core.health.ledger import Reason
from plugin.core.state import Snapshot
from plugin.core.status import warnings

log = logging.getLogger(__name__)


def snapshot(old: Snapshot, new: Snapshot) -> None:
    """The difference between two snapshots."""
    common = {"generation": new.generation}
    if new.driver_error and new.driver_error != old.driver_error:
        log.error("driver unavailable", extra={**common, "reason": new.driver_error})
    elif old.driver_error and not new.driver_error:
        log.info("driver available", extra=common)
    if new.inventory is not old.inventory:
        known = warnings(old.inventory)
        for warning in dict.fromkeys(warnings(new.inventory)):
            if warning not in known:
                log.warning("hardware unreadable", extra={**common, "reason": warning})
    for problem in new.advertisement.problems:
        if problem not in old.advertisement.problems:
            log.warning("configuration problem", extra={**common, "reason": problem})
    for resource, listed in new.advertisement.resources.items():
        _resource(new.generation, resource, old.advertisement.resources.get(resource, ()), listed)


def faults(judged: Iterable[Fault], generation: int) -> None:
    """Events judged together; those that say the same share a line, with their number."""
    for what, count in Counter(judged).items():
        level = logging.WARNING if what.severity is Severity.FATAL else logging.INFO
        extra = {
            "generation": generation,
            "devices": what.targets,
            "reason": what.text,
            "verdict": what.severity.value,
        }
        log.log(level, "fault", extra=extra if count == 1 else {**extra, "count": count})


def cleared(reasons: Iterable[tuple[str, Reason]]) -> None:
    for uuid, reason in reasons:
        log.info("reason cleared", extra={"device": uuid, "reason": reason.text})


def _resource(
    generation: int, resource: str, before: tuple[Listed, ...], now: tuple[Listed, ...]
) -> None:
    """Devices that changed for the same reason share a line: a lost driver concerns them all."""
    common = {"generation": generation, "resource": resource}
    healthy = sum(item.healthy for item in now)
    if len(now) != len(before) or healthy != sum(item.healthy for item in before):
        log.info("advertising", extra={**common, "devices": len(now), "healthy": healthy})
    known = {item.id: item.reasons for item in before}
    down: dict[str, list[str]] = {}
    up: list[str] = []
    for item in now:
        if item.reasons and item.reasons != known.get(item.id, ()):
            down.setdefault("; ".join(item.reasons), []).append(item.id)
        elif not item.reasons and known.get(item.id):
            up.append(item.id)
    for reason, devices in down.items():
        log.warning("unhealthy", extra={**common, "devices": devices, "reason": reason})
    if up:
        log.info("healthy again", extra={**common, "devices": up})
