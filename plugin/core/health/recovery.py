"""When a device comes back: what clears each reason, and when an entry of the ledger ends.

A reason of the kind ``recovery`` ends when the GPU answers and asks for nothing, the same instance
is there, and a quiet period has passed. An entry ends with its device:

- That of a MIG device ends when the device is certainly gone: see
  :mod:`plugin.core.inventory.merge`.
- That of a GPU that was taken out, and those of its MIG devices, end when the GPU has been absent
  for :data:`ABSENT_SECONDS`; a cordon ends only after :data:`ABSENT_CORDON_SECONDS`, since an
  operator may have cordoned the GPU to have it repaired. A GPU that returns sooner keeps all.

Absence counts from the first scan that shows it for certain, and for as long as none shows the GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.health.events import Probe
from plugin.core.health.ledger import FLAP_SECONDS, Entry, Ledger
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.reasons import Clears, Code, Reason

#: How long faults and the history of a GPU that is not there any more are kept: a day.
ABSENT_SECONDS = 86_400.0
#: How long cordons of such a GPU are kept: 30 days.
ABSENT_CORDON_SECONDS = 30 * 86_400.0


class GpuHealth(Struct, frozen=True):
    """How a GPU stands: its newest probe, since when all has been well, and when a reset of it was
    last seen.
    """

    probe: Probe | None = None
    good_since: float | None = None
    reset_seen: float | None = None


def after_probe(before: GpuHealth, probe: Probe, now: float) -> GpuHealth:
    """The health after another probe. What a plain probe did not ask keeps the last answer."""
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
    return GpuHealth(
        probe,
        # Not later than now: the wall clock may have been set back.
        good_since=(min(before.good_since, now) if before.good_since is not None else now)
        if good
        else None,
        # A GPU that was off the bus and answers again has been through a reset.
        reset_seen=now if returned else before.reset_seen,
    )


class Recovered(Struct, frozen=True):
    """A new ledger, the reasons it lost as ``(UUID, reason)``, and when to look again (``None``: on
    news only).
    """

    ledger: Ledger
    cleared: tuple[tuple[str, Reason], ...] = ()
    look_again: float | None = None


def recover(
    ledger: Ledger,
    inventory: Inventory,
    gpu_health: Mapping[str, GpuHealth],
    now: float,
    quiet_seconds: float,
    *,
    complete: bool = True,
    gone: Collection[str] = (),
) -> Recovered:
    """Clear every reason whose rule allows it; whatever is unknown keeps its reason.

    `complete` says that a GPU that is not in `inventory` is certainly not on the node, `gone` are
    MIG devices that are certainly no more; one made anew in the place of another has another UUID.
    """
    entries: dict[str, Entry] = {}
    cleared: list[tuple[str, Reason]] = []
    times: list[float] = []
    for uuid, before in ledger.items():
        gpu = inventory.gpu(before.gpu_uuid)
        entry = _absence(before, now, absent=gpu is None, complete=complete)
        if entry is None or uuid in gone:
            cleared += [(uuid, reason) for reason in before.reasons]
            continue
        health = gpu_health.get(entry.gpu_uuid, GpuHealth())
        kept = []
        for reason in entry.reasons:
            due = _due(uuid, entry, reason, gpu, health, quiet_seconds)
            if due is not None and due <= now:
                continue
            kept.append(reason)
            if due is not None:
                times.append(due)
        entries[uuid] = _after_clearing(entry, tuple(kept), now)
        codes = {reason.code for reason in kept}
        cleared += [(uuid, reason) for reason in before.reasons if reason.code not in codes]
    return Recovered(MappingProxyType(entries), tuple(cleared), min(times, default=None))


def _absence(entry: Entry, now: float, *, absent: bool, complete: bool) -> Entry | None:
    """The entry with how long its GPU has been absent, and without what does not outlast that.

    The times in it are not later than `now`: a wall clock that was set back must not hold a device
    down until it is that late again.
    """
    reasons = tuple(_not_later(reason, now) for reason in entry.reasons)
    since = entry.absent_since if absent else None
    if absent and complete:
        since = now if since is None else min(since, now)
    gone_for = 0.0 if since is None or not complete else now - since
    if gone_for >= ABSENT_SECONDS:
        reasons = tuple(reason for reason in reasons if reason.clears is Clears.OPERATOR)
        if not reasons or gone_for >= ABSENT_CORDON_SECONDS:
            return None
    rebooted = entry.rebooted and absent
    if (reasons, since, rebooted) == (entry.reasons, entry.absent_since, entry.rebooted):
        return entry
    return replace(entry, reasons=reasons, absent_since=since, rebooted=rebooted)


def _after_clearing(entry: Entry, kept: tuple[Reason, ...], now: float) -> Entry:
    if len(kept) < len(entry.reasons):
        entry = replace(entry, reasons=kept)
        if any(reason.clears is Clears.RECOVERY for reason in kept):
            return entry
        return replace(entry, recovered=now, recoveries=entry.recoveries + 1)
    calm = entry.recovered is not None and now - entry.recovered >= FLAP_SECONDS
    return replace(entry, flaps=0, recovered=None) if entry.flaps and not kept and calm else entry


def _not_later(reason: Reason, now: float) -> Reason:
    if reason.since is None or reason.last is None or reason.last <= now:
        return reason
    return replace(reason, since=min(reason.since, now), last=now)


def _due(
    uuid: str,
    entry: Entry,
    reason: Reason,
    gpu: Gpu | None,
    health: GpuHealth,
    quiet_seconds: float,
) -> float | None:
    """When a reason may go if nothing happens until then; ``None`` while its rule does not allow it
    at all.
    """
    if (
        reason.clears is not Clears.RECOVERY
        or reason.last is None
        or gpu is None
        or gpu.error
        or health.probe is None
        or health.good_since is None
    ):
        return None
    if entry.gi is not None and not _enumerates(gpu, uuid, entry):
        return None
    hardware = reason.code != Code.REPEATED_APPLICATION_FAULTS
    reset = health.reset_seen is not None and health.reset_seen >= reason.last
    if hardware and health.probe.recovery_action is None and not reset:
        return None  # the driver cannot say that all is well: only a reset would
    return max(reason.last, health.good_since) + entry.quiet_needed(quiet_seconds)


def _enumerates(gpu: Gpu, uuid: str, entry: Entry) -> bool:
    return any(
        d.uuid == uuid and (d.gi, d.ci) == (entry.gi, entry.ci) and not d.error
        for d in gpu.mig_devices
    )
