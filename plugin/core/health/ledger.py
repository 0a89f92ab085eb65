"""The ledger: per device the reasons that hold it down, what clears each, and what has happened to
it before.

Keys are UUIDs. An entry under a GPU's UUID holds for everything on that GPU, whatever instances it
has; an entry under a MIG device's UUID ends with that instance. Times are seconds of the wall
clock, given by the caller.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from plugin.core.health.events import Probe
from plugin.core.health.faults import Fault, Severity
from plugin.core.inventory.model import Device, Gpu, Inventory, MigDevice

CORDONED = "cordoned"

#: A device that fails again within this time after it recovered is flapping.
FLAP_SECONDS = 3600.0
#: Flapping doubles the quiet period up to this.
LONGEST_QUIET_SECONDS = 3600.0
#: More doublings than any quiet period takes to get there, and few enough for a float.
_MOST_DOUBLINGS = 32


class Clears(enum.StrEnum):
    """What clears a reason."""

    # no recovery action, the same instance enumerates, and a quiet period has passed
    RECOVERY = "recovery"
    OPERATOR = "operator"  # nothing but the opposite command


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a device is down: ``code`` for machines, ``text`` for people, ``since`` the first and
    ``last`` the latest.
    """

    code: str
    text: str
    since: float
    last: float
    clears: Clears = Clears.RECOVERY


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one device. ``gi``/``ci`` are those it had, ``None`` for a GPU.

    ``flaps`` counts faults soon after a recovery, ``recovered`` is the time of the last one.
    ``applications`` are the times of recent "restart the application" faults. ``xids`` counts by
    XID; it and ``recoveries`` start anew with the process, as metrics do.
    """

    gpu_uuid: str
    gi: int | None = None
    ci: int | None = None
    reasons: tuple[Reason, ...] = ()
    flaps: int = 0
    recovered: float | None = None
    applications: tuple[float, ...] = ()
    xids: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    last_fault: float | None = None
    recoveries: int = 0

    def reason(self, code: str) -> Reason | None:
        return next((reason for reason in self.reasons if reason.code == code), None)

    def quiet_needed(self, quiet_seconds: float) -> float:
        """Seconds without trouble before a reason may go: doubled with each flap."""
        return min(
            quiet_seconds * 2.0 ** min(self.flaps, _MOST_DOUBLINGS),
            max(LONGEST_QUIET_SECONDS, quiet_seconds),
        )


@dataclass(frozen=True, slots=True)
class Escalation:
    """This many application faults on one device within that many seconds take it out."""

    count: int
    seconds: float


Ledger = Mapping[str, Entry]
EMPTY: Ledger = MappingProxyType({})


def record(
    ledger: Ledger, fault: Fault, inventory: Inventory, now: float, escalation: Escalation
) -> Ledger:
    """Write a fault down for every device it concerns."""
    entries = dict(ledger)
    for target in fault.targets:
        entry = _counted(_entry(ledger, target, inventory, fault.gpu_uuid), fault, now)
        if fault.severity is Severity.APPLICATION:
            entry, repeated = _repeated(entry, now, escalation)
            if repeated is not None:
                entry = _hold(entry, repeated, now)
        elif fault.severity is Severity.FATAL:
            entry = _hold(entry, Reason(fault.code, fault.text, now, now), now)
        entries[target] = entry
    return MappingProxyType(entries)


def _entry(ledger: Ledger, target: str, inventory: Inventory, gpu_uuid: str) -> Entry:
    device = _find(inventory, target)
    instance = (device.gi, device.ci) if isinstance(device, MigDevice) else (None, None)
    return ledger.get(target) or Entry(gpu_uuid, *instance)


def _counted(entry: Entry, fault: Fault, now: float) -> Entry:
    if fault.xid is not None:
        # The newest XID stands last.
        others = {xid: count for xid, count in entry.xids.items() if xid != fault.xid}
        counts = {**others, fault.xid: entry.xids.get(fault.xid, 0) + 1}
        entry = replace(entry, xids=MappingProxyType(counts))
    return replace(entry, last_fault=now)


def _repeated(entry: Entry, now: float, escalation: Escalation) -> tuple[Entry, Reason | None]:
    if not escalation.count:
        return entry, None
    recent = (*(time for time in entry.applications if now - time < escalation.seconds), now)[
        -escalation.count :
    ]
    entry = replace(entry, applications=recent)
    if len(recent) < escalation.count:
        return entry, None
    text = f"{escalation.count} faults of applications within {escalation.seconds:g} s"
    return replace(entry, applications=()), Reason("repeated-application-faults", text, now, now)


def _hold(entry: Entry, reason: Reason, now: float) -> Entry:
    known = entry.reason(reason.code)
    if known is not None:
        updated = tuple(
            replace(r, text=reason.text, last=now) if r is known else r for r in entry.reasons
        )
        return replace(entry, reasons=updated)
    flapping = (
        reason.clears is Clears.RECOVERY
        and entry.recovered is not None
        and now - entry.recovered < FLAP_SECONDS
    )
    # One flap for each recovery that did not last, however many reasons come at once.
    flaps = entry.flaps + 1 if flapping else entry.flaps
    recovered = None if flapping else entry.recovered
    return replace(entry, reasons=(*entry.reasons, reason), flaps=flaps, recovered=recovered)


# ---- recovery


@dataclass(frozen=True, slots=True)
class Condition:
    """How a GPU stands: its newest probe, since when all has been well, and when a reset of it was
    last seen.
    """

    probe: Probe | None = None
    good_since: float | None = None
    reset_seen: float | None = None


def condition(before: Condition, probe: Probe, now: float) -> Condition:
    """The condition after another probe. What a plain probe did not ask keeps the last answer."""
    if before.probe is not None:
        probe = replace(
            probe,
            remap_failure=before.probe.remap_failure
            if probe.remap_failure is None
            else probe.remap_failure,
            retirement_pending=before.probe.retirement_pending
            if probe.retirement_pending is None
            else probe.retirement_pending,
        )
    good = (
        not probe.error and not probe.lost and not probe.recovery_action and not probe.remap_failure
    )
    returned = before.probe is not None and before.probe.lost and not probe.lost and not probe.error
    return Condition(
        probe,
        # Not later than now: the wall clock may have been set back.
        good_since=(min(before.good_since, now) if before.good_since is not None else now)
        if good
        else None,
        # A GPU that was off the bus and answers again has been through a reset.
        reset_seen=now if returned else before.reset_seen,
    )


@dataclass(frozen=True, slots=True)
class Recovered:
    """A new ledger, the reasons it lost as ``(UUID, reason)``, and when to look again (``None``: on
    news only).
    """

    ledger: Ledger
    cleared: tuple[tuple[str, Reason], ...] = ()
    look_again: float | None = None


def recover(
    ledger: Ledger,
    inventory: Inventory,
    conditions: Mapping[str, Condition],
    now: float,
    quiet_seconds: float,
) -> Recovered:
    """Clear every reason whose rule allows it; whatever is unknown keeps its reason."""
    entries: dict[str, Entry] = {}
    cleared: list[tuple[str, Reason]] = []
    times: list[float] = []
    gpus = {gpu.uuid: gpu for gpu in inventory.gpus}
    for uuid, entry in ledger.items():
        gpu = gpus.get(entry.gpu_uuid)
        if _is_gone(uuid, entry, gpu):
            cleared += [(uuid, reason) for reason in entry.reasons]
            continue
        kept = []
        reasons = tuple(_not_later(reason, now) for reason in entry.reasons)
        for reason in reasons:
            due = _due(
                uuid, entry, reason, gpu, conditions.get(entry.gpu_uuid, Condition()), quiet_seconds
            )
            if due is not None and due <= now:
                cleared.append((uuid, reason))
                continue
            kept.append(reason)
            if due is not None:
                times.append(due)
        if tuple(kept) != entry.reasons:
            entry = replace(entry, reasons=tuple(kept))  # noqa: PLW2901 — the entry as it goes on
        if len(kept) < len(reasons):
            if not any(reason.clears is Clears.RECOVERY for reason in kept):
                entry = replace(entry, recovered=now, recoveries=entry.recoveries + 1)  # noqa: PLW2901
        elif (
            entry.flaps
            and not kept
            and entry.recovered is not None
            and now - entry.recovered >= FLAP_SECONDS
        ):
            entry = replace(entry, flaps=0, recovered=None)  # noqa: PLW2901
        entries[uuid] = entry
    return Recovered(MappingProxyType(entries), tuple(cleared), min(times, default=None))


def _is_gone(uuid: str, entry: Entry, gpu: Gpu | None) -> bool:
    """A MIG device that was destroyed; one made anew in its place has another UUID."""
    if entry.gi is None or gpu is None or gpu.error or gpu.unreadable:
        return False
    return all(device.uuid != uuid for device in gpu.mig_devices)


def _not_later(reason: Reason, now: float) -> Reason:
    """A wall clock that was set back must not hold a device down until it is that late again."""
    return reason if reason.last <= now else replace(reason, since=min(reason.since, now), last=now)


def _due(
    uuid: str, entry: Entry, reason: Reason, gpu: Gpu | None, how: Condition, quiet_seconds: float
) -> float | None:
    """When a reason may go if nothing happens until then; ``None`` while its rule does not allow it
    at all.
    """
    if (
        reason.clears is not Clears.RECOVERY
        or gpu is None
        or gpu.error
        or how.probe is None
        or how.good_since is None
    ):
        return None
    if entry.gi is not None and not _enumerates(gpu, uuid, entry):
        return None
    if how.probe.recovery_action is None and (
        how.reset_seen is None or how.reset_seen < reason.last
    ):
        return None  # the driver cannot say that all is well: only a reset would
    return max(reason.last, how.good_since) + entry.quiet_needed(quiet_seconds)


def _enumerates(gpu: Gpu, uuid: str, entry: Entry) -> bool:
    return any(
        d.uuid == uuid and (d.gi, d.ci) == (entry.gi, entry.ci) and not d.error
        for d in gpu.mig_devices
    )


# ---- operators


def cordon(ledger: Ledger, uuid: str, inventory: Inventory, now: float) -> Ledger:
    """Take a GPU or MIG device out of service until :func:`uncordon`."""
    device = _find(inventory, uuid)
    gpu_uuid = device.gpu_uuid if isinstance(device, MigDevice) else uuid
    entry = _entry(ledger, uuid, inventory, gpu_uuid)
    if entry.reason(CORDONED) is not None:
        return ledger
    return MappingProxyType(
        {**ledger, uuid: _hold(entry, Reason(CORDONED, CORDONED, now, now, Clears.OPERATOR), now)}
    )


def uncordon(ledger: Ledger, uuid: str) -> Ledger:
    return _without(ledger, uuid, lambda reason: reason.code == CORDONED)


def clear(ledger: Ledger, uuid: str, inventory: Inventory) -> Ledger:
    """An operator's word that a device is well: every fault goes, with its flapping; cordons stay.

    Clearing a GPU clears its MIG devices too.
    """
    device = _find(inventory, uuid)
    targets = [uuid, *(d.uuid for d in device.mig_devices)] if isinstance(device, Gpu) else [uuid]
    for target in targets:
        ledger = _without(
            ledger, target, lambda reason: reason.clears is Clears.RECOVERY, forget=True
        )
    return ledger


def _without(
    ledger: Ledger, uuid: str, goes: Callable[[Reason], bool], *, forget: bool = False
) -> Ledger:
    entry = ledger.get(uuid)
    if entry is None:
        return ledger
    entry = replace(entry, reasons=tuple(reason for reason in entry.reasons if not goes(reason)))
    if forget:
        entry = replace(entry, flaps=0, recovered=None, applications=())
    return MappingProxyType({**ledger, uuid: entry})


# ---- reading


def verdicts(ledger: Ledger, inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """Device UUID → why it is down, for every device that is:
    its own reasons and those of its GPU.
    """
    found: dict[str, tuple[str, ...]] = {}
    for gpu in inventory.gpus:
        shared = _texts(ledger, (gpu.uuid,))
        for device in gpu.mig_devices:
            if texts := (*_texts(ledger, (device.uuid,)), *shared):
                found[device.uuid] = texts
        # A GPU that is handed out whole is as well as the worst of its parts.
        if texts := (*shared, *_texts(ledger, (d.uuid for d in gpu.mig_devices))):
            found[gpu.uuid] = texts
    return found


def _texts(ledger: Ledger, uuids: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(r.text for uuid in uuids if uuid in ledger for r in ledger[uuid].reasons)
    )


def _find(inventory: Inventory, uuid: str) -> Device | None:
    return next((device for device in inventory.devices() if device.uuid == uuid), None)


# ---- documents


def to_document(ledger: Ledger) -> dict[str, object]:
    """What is worth keeping over a restart, in JSON's types."""
    return {
        uuid: {
            "gpu": entry.gpu_uuid,
            "gi": entry.gi,
            "ci": entry.ci,
            "flaps": entry.flaps,
            "recovered": entry.recovered,
            "reasons": [
                {
                    "code": r.code,
                    "text": r.text,
                    "since": r.since,
                    "last": r.last,
                    "clears": r.clears.value,
                }
                for r in entry.reasons
            ],
        }
        for uuid, entry in ledger.items()
        if entry.reasons or entry.flaps or entry.recovered is not None
    }


def from_document(document: object) -> Ledger:
    """The inverse. Raises ValueError, KeyError, TypeError, AttributeError or OverflowError for all
    else.
    """
    if not isinstance(document, dict):
        raise TypeError("a mapping of UUIDs is expected")
    return MappingProxyType({str(uuid): _entry_of(entry) for uuid, entry in document.items()})


def _entry_of(entry: Mapping[str, Any]) -> Entry:
    reasons = tuple(
        Reason(
            str(r["code"]), str(r["text"]), _time(r["since"]), _time(r["last"]), Clears(r["clears"])
        )
        for r in entry["reasons"]
    )
    return Entry(
        gpu_uuid=str(entry["gpu"]),
        gi=None if entry["gi"] is None else int(entry["gi"]),
        ci=None if entry["ci"] is None else int(entry["ci"]),
        reasons=reasons,
        flaps=int(entry["flaps"]),
        recovered=None if entry["recovered"] is None else _time(entry["recovered"]),
    )


def _time(value: object) -> float:
    seconds = float(str(value))
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is no time")
    return seconds
