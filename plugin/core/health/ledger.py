"""The ledger: the reasons that hold each device down, and what has happened to it before.

Keys are UUIDs. An entry under a GPU's UUID holds for everything on that GPU, whatever instances it
has; an entry under a MIG device's UUID ends with that instance. Times are seconds of the wall
clock, given by the caller. :mod:`plugin.core.health.recovery` says when reasons and entries end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.health.faults import Fault, Severity
from plugin.core.inventory.model import Inventory, MigDevice
from plugin.core.quote import shorten
from plugin.core.reasons import Clears, Code, Reason

#: Faults of applications on one device within this time of the first are one incident: a program
#: that crashes leaves one XID for each of its channels, a dozen within some 30 ms.
INCIDENT_SECONDS = 1.0
#: A device that fails again within this time after it recovered is flapping.
FLAP_SECONDS = 3600.0
#: Flapping doubles the quiet period up to this.
LONGEST_QUIET_SECONDS = 3600.0
#: More doublings than any quiet period takes to get there, and few enough for a float.
_MOST_DOUBLINGS = 32
#: More than a file can have counted.
_MOST_FLAPS = 2**31
#: Of a text in a file: above all that is ever written there.
_MOST_CHARACTERS = 1000


class Entry(Struct, frozen=True):
    """What is known of one device. ``gi``/``ci`` are those it had, ``None`` for a GPU.

    ``flaps`` counts faults soon after a recovery, ``recovered`` is the time of the last one.
    ``incident`` is when the latest incident of "restart the application" faults began, and
    ``applications`` are the times of the recent ones. ``xids`` counts every event by XID; it and
    ``recoveries`` start anew with the process, as metrics do. ``absent_since`` is when a scan first
    showed for certain that the GPU is not on the node any more. ``rebooted``: the node has booted
    since the GPU was last seen or had a fault.
    """

    gpu_uuid: str
    gi: int | None = None
    ci: int | None = None
    reasons: tuple[Reason, ...] = ()
    flaps: int = 0
    recovered: float | None = None
    incident: float | None = None
    applications: tuple[float, ...] = ()
    xids: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    last_fault: float | None = None
    recoveries: int = 0
    absent_since: float | None = None
    rebooted: bool = False

    def reason(self, code: str) -> Reason | None:
        return next((reason for reason in self.reasons if reason.code == code), None)

    def quiet_needed(self, quiet_seconds: float) -> float:
        """Seconds without trouble before a reason may go: doubled with each flap."""
        return min(
            quiet_seconds * 2.0 ** min(self.flaps, _MOST_DOUBLINGS),
            max(LONGEST_QUIET_SECONDS, quiet_seconds),
        )


class Escalation(Struct, frozen=True):
    """This many incidents of applications on one device within that many seconds take it out."""

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
            entry = _hold(entry, Reason.held(fault.code, fault.text, now), now)
        entries[target] = entry
    return MappingProxyType(entries)


def _entry(ledger: Ledger, target: str, inventory: Inventory, gpu_uuid: str) -> Entry:
    device = inventory.device(target)
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
    """The entry after a fault of an application, and the reason if it is one incident too many."""
    held = entry.reason(Code.REPEATED_APPLICATION_FAULTS)
    if held is not None:
        entry = _hold(entry, held, now)  # not quiet yet
    if entry.incident is not None and now - entry.incident < INCIDENT_SECONDS:
        return entry, None
    entry = replace(entry, incident=now)
    if not escalation.count or held is not None:
        return entry, None
    recent = (*(time for time in entry.applications if now - time < escalation.seconds), now)[
        -escalation.count :
    ]
    if len(recent) < escalation.count:
        return replace(entry, applications=recent), None
    text = f"{escalation.count} incidents of applications within {escalation.seconds:g} s"
    repeated = Reason.held(Code.REPEATED_APPLICATION_FAULTS, text, now)
    return replace(entry, applications=()), repeated


def _hold(entry: Entry, reason: Reason, now: float) -> Entry:
    if reason.clears is Clears.RECOVERY:
        entry = replace(entry, rebooted=False)
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


def after_reboot(ledger: Ledger) -> Ledger:
    """A ledger that was saved before the node's last boot."""
    return MappingProxyType({uuid: replace(each, rebooted=True) for uuid, each in ledger.items()})


# ---- operators


def cordon(ledger: Ledger, uuid: str, inventory: Inventory, now: float) -> Ledger:
    """Take a GPU or MIG device out of service until :func:`uncordon`."""
    device = inventory.device(uuid)
    entry = _entry(ledger, uuid, inventory, device.gpu_uuid if device else uuid)
    if entry.reason(Code.CORDONED) is not None:
        return ledger
    reason = Reason.held(Code.CORDONED, "cordoned", now, Clears.OPERATOR)
    return MappingProxyType({**ledger, uuid: _hold(entry, reason, now)})


def uncordon(ledger: Ledger, uuid: str) -> Ledger:
    return _without(ledger, uuid, lambda reason: reason.code == Code.CORDONED)


def clear(ledger: Ledger, uuid: str, inventory: Inventory) -> Ledger:
    """An operator's word that a device is well: every fault goes, with its flapping; cordons stay.

    Clearing a GPU clears its MIG devices too.
    """
    device = inventory.device(uuid)
    for target in (uuid, *(part.uuid for part in (device.parts if device else ()))):
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
        entry = replace(entry, flaps=0, recovered=None, incident=None, applications=())
    return MappingProxyType({**ledger, uuid: entry})


# ---- reading


def verdicts(ledger: Ledger, inventory: Inventory) -> dict[str, tuple[Reason, ...]]:
    """Device UUID → why it is down, for every device that is: its own reasons and those of its
    GPU.
    """
    found: dict[str, tuple[Reason, ...]] = {}
    for gpu in inventory.gpus:
        shared = of(ledger, gpu.uuid)
        for device in gpu.mig_devices:
            if reasons := (*of(ledger, device.uuid), *shared):
                found[device.uuid] = reasons
        # A GPU that is handed out whole is as well as the worst of its parts.
        parts = (reason for device in gpu.mig_devices for reason in of(ledger, device.uuid))
        by_code: dict[str, Reason] = {}
        for reason in (*shared, *parts):
            by_code.setdefault(reason.code, reason)
        if by_code:
            found[gpu.uuid] = tuple(by_code.values())
    return found


def of(ledger: Ledger, uuid: str) -> tuple[Reason, ...]:
    """The reasons under one UUID."""
    entry = ledger.get(uuid)
    return entry.reasons if entry is not None else ()


def is_cordoned(ledger: Ledger, uuid: str) -> bool:
    return any(reason.code == Code.CORDONED for reason in of(ledger, uuid))


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
            **({} if entry.absent_since is None else {"absent_since": entry.absent_since}),
            **({"rebooted": True} if entry.rebooted else {}),
            "reasons": [
                {
                    "code": r.code,
                    "text": r.text,
                    "since": r.since,
                    "last": r.last,
                    "clears": (r.clears or Clears.RECOVERY).value,
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
    return MappingProxyType({_text(uuid): _entry_of(entry) for uuid, entry in document.items()})


def _entry_of(entry: Mapping[str, Any]) -> Entry:
    reasons = tuple(
        Reason(
            _text(r["code"]),
            _text(r["text"]),
            to_time(r["since"]),
            to_time(r["last"]),
            Clears(r["clears"]),
        )
        for r in entry["reasons"]
    )
    return Entry(
        gpu_uuid=_text(entry["gpu"]),
        gi=None if entry["gi"] is None else int(entry["gi"]),
        ci=None if entry["ci"] is None else int(entry["ci"]),
        reasons=reasons,
        flaps=min(max(int(entry["flaps"]), 0), _MOST_FLAPS),
        recovered=None if entry["recovered"] is None else to_time(entry["recovered"]),
        # Files of earlier versions do not have it.
        absent_since=None if entry.get("absent_since") is None else to_time(entry["absent_since"]),
        rebooted=bool(entry.get("rebooted")),
    )


def _text(value: object) -> str:
    """A text that can be shown: JSON can hold half a character (a lone surrogate), which no
    encoding has.
    """
    return shorten(str(value), _MOST_CHARACTERS).encode("utf-8", "replace").decode("utf-8")


def to_time(value: object) -> float:
    """Seconds from a file. Raises ValueError for what is no time."""
    seconds = float(str(value))
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is no time")
    return seconds
