"""What the log says: one line for each thing that happened or is new, with the generation it
belongs to.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from plugin.core.advertise.listed import Listed
from plugin.core.cdi.standing import Specified
from plugin.core.health.faults import Fault, Severity
from plugin.core.news import (
    ClockSet,
    Command,
    Commanded,
    Judged,
    News,
    ReasonCleared,
    ReleaseAsked,
    ReleaseDone,
    ReleaseOver,
    UnknownInstance,
)
from plugin.core.reasons import texts
from plugin.core.state import Snapshot
from plugin.driver.hangs import Hung

log = logging.getLogger(__name__)


def snapshot(old: Snapshot, new: Snapshot) -> None:
    """The difference between two snapshots."""
    common = {"generation": new.generation}
    if new.driver_error and new.driver_error != old.driver_error:
        log.error("driver unavailable", extra={**common, "reason": new.driver_error.text})
    elif old.driver_error and not new.driver_error:
        log.info("driver available", extra=common)
    if new.inventory is not old.inventory:
        known = old.inventory.warnings()
        for warning in dict.fromkeys(new.inventory.warnings()):
            if warning not in known:
                log.warning("hardware unreadable", extra={**common, "reason": warning})
    if new.specified != old.specified:
        _specified(common, old.specified, new.specified)
    for problem in new.advertisement.problems:
        if problem not in old.advertisement.problems:
            log.warning("configuration problem", extra={**common, "reason": problem})
    for resource, listed in new.advertisement.resources.items():
        _resource(new.generation, resource, old.advertisement.resources.get(resource, ()), listed)


def _specified(common: Mapping[str, object], old: Specified, new: Specified) -> None:
    for reason in dict.fromkeys(new.errors.values()):
        if reason not in old.errors.values():
            log.error("no current CDI specification", extra={**common, "reason": reason})
    if not new.errors and new.entries:
        log.info("CDI specification written", extra={**common, "devices": len(new.entries)})


def hung(hung: Hung, *, returned: bool) -> None:
    """A call of the driver that was given up, or that has returned after that."""
    gpu = hung.call.gpu
    extra = {
        "call": hung.call.function,
        "gpu": (gpu.uuid or f"GPU {gpu.index}") if gpu is not None else None,
    }
    if returned:
        log.info("a hung driver call has returned", extra=extra)
    else:
        log.error("a driver call hangs", extra={**extra, "seconds": round(hung.seconds, 1)})


def before(news: Iterable[News]) -> None:
    """What was done, ahead of what it changes."""
    for what in news:
        match what:
            case ReasonCleared(uuid, reason):
                log.info("reason cleared", extra={"device": uuid, "reason": reason.text})
            case Commanded(Command.CORDON, uuid):
                log.info("cordoned", extra={"device": uuid})
            case Commanded(Command.UNCORDON, uuid):
                log.info("uncordoned", extra={"device": uuid})
            case Commanded(Command.CLEAR, uuid):
                log.info("cleared by an operator", extra={"device": uuid})
            case ClockSet(seconds):
                log.info("the wall clock was set", extra={"seconds": round(seconds, 3)})
            case ReleaseAsked() | ReleaseDone() | ReleaseOver():
                _release(what)
            case UnknownInstance(event):
                log.warning(
                    "a fault of an unknown instance",
                    extra={"gpu": event.gpu_uuid, "gi": event.gi, "ci": event.ci},
                )


def _release(what: ReleaseAsked | ReleaseDone | ReleaseOver) -> None:
    match what:
        case ReleaseAsked(gpus, seconds):
            log.info("releasing the driver", extra={"gpus": gpus, "seconds": seconds})
        case ReleaseDone(()):
            log.info("the driver is released")
        case ReleaseDone(left):
            log.warning("the driver cannot be released", extra={"reason": "; ".join(left)})
        case ReleaseOver(expired):
            log.info("opening the driver after a release", extra={"expired": expired})


def after(news: Iterable[News], generation: int) -> None:
    """Faults, with the generation in which they count."""
    for what in news:
        if isinstance(what, Judged):
            _faults(what.faults, generation)


def _faults(judged: Iterable[Fault], generation: int) -> None:
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


def _resource(
    generation: int, resource: str, before: tuple[Listed, ...], now: tuple[Listed, ...]
) -> None:
    """Devices that changed for the same reason share a line: a lost driver concerns them all."""
    common = {"generation": generation, "resource": resource}
    healthy = sum(item.healthy for item in now)
    if len(now) != len(before) or healthy != sum(item.healthy for item in before):
        log.info("advertising", extra={**common, "devices": len(now), "healthy": healthy})
    known = {item.id: _said(item) for item in before}
    down: dict[str, list[str]] = {}
    up: list[str] = []
    for item in now:
        if item.reasons and _said(item) != known.get(item.id, ()):
            down.setdefault(texts(item.reasons), []).append(item.id)
        elif not item.reasons and known.get(item.id):
            up.append(item.id)
    for reason, devices in down.items():
        log.warning("unhealthy", extra={**common, "devices": devices, "reason": reason})
    if up:
        log.info("healthy again", extra={**common, "devices": up})


def _said(item: Listed) -> tuple[tuple[str, str], ...]:
    """What the log says of a device: not that a fault happened again, which changes its time."""
    return tuple((reason.code, reason.text) for reason in item.reasons)
