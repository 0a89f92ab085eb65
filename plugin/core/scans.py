"""The steps of the state that a scan makes."""

from __future__ import annotations

from types import MappingProxyType

from msgspec.structs import replace

from plugin.core.cdi.standing import Specified
from plugin.core.health import recovery
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.merge import Before, merge
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.reasons import Code, Reason, Scope
from plugin.core.release import Release
from plugin.core.state import State, Step, cleared_news, decide, happened, is_complete

#: Scans in a row that follow another at once.
MOST_LOOKS = 3
#: So many scans in a row leave out what the driver announces: 20 minutes with the default interval.
QUICK_SCANS = 39


def needs_all(state: State) -> bool:
    """Whether a scan that nobody asked for has to read what events announce too: something says
    that a GPU is other than it was last read, or an event may have been lost for long enough.
    """
    doubts = (state.changed, state.scanned, state.deferred, state.unseen, state.unread)
    return state.quick >= QUICK_SCANS or state.snapshot.driver_error is not None or any(doubts)


def scan_begun(state: State, *, thorough: bool = True) -> State:
    """A scan begins to read the hardware: it will show every change up to now."""
    quick = 0 if thorough else state.quick + 1
    changed = state.scanned | state.changed
    return replace(state, scanned=changed, changed=frozenset(), quick=quick)


def sought(state: State) -> tuple[str, ...]:
    """UUIDs that the scan that begins should look for, so that none is believed gone too soon."""
    return _before(state).sought()


def scan_ended(
    state: State, scan: Inventory, now: float, specified: Specified | None = None
) -> Step:
    """A finished scan becomes the state, and deferred events of what it shows are judged.
    `specified` is the CDI specification that was written for it.

    If something vanished or could not be read, another scan follows at once: one answer may have
    failed, and two scans make an absence certain. A driver of which something else fails each time
    does not get scan after scan: the next one is on schedule.
    """
    old = state.snapshot
    merged = merge(_before(state), scan)
    inventory = merged.inventory
    health = {gpu.uuid: _scanned_health(gpu, state, now) for gpu in inventory.gpus}
    recovered = recovery.recover(
        old.ledger,
        inventory,
        health,
        now,
        old.settings.quiet_seconds,
        complete=is_complete(inventory),
        gone=merged.gone,
    )
    changed = not old.geometry or _geometry(inventory) != _geometry(old.inventory)
    # The instances of a GPU that could not be read completely are those of an earlier scan.
    incomplete = {
        gpu.uuid for gpu in inventory.gpus if gpu.error or gpu.unreadable or gpu.uncounted
    }
    deferred = state.deferred
    unread = _unread(inventory)
    doubtful = bool(merged.unseen) or not unread <= state.unread
    again = doubtful and state.looks < MOST_LOOKS
    state = replace(
        state,
        changed=state.changed | (state.scanned & incomplete),
        scanned=frozenset(),
        deferred=(),
        unseen=merged.unseen,
        unread=unread,
        looks=state.looks + 1 if again else 0,
    )
    state = decide(
        state,
        inventory=inventory,
        driver_error=None,
        release=_unless_over(old.release),
        ledger=recovered.ledger,
        gpu_health=MappingProxyType(health),
        geometry=old.geometry + changed,
        geometry_changed=now if changed else old.geometry_changed,
        specified=specified or old.specified,
    )
    after = happened(state, deferred, now)
    return replace(
        after,
        news=(*cleared_news(recovered), *after.news),
        rescan=after.rescan or again,
        probe=after.probe or any(gpu.uuid not in old.gpu_health for gpu in inventory.gpus),
    )


def scan_failed(state: State, reason: Reason) -> Step:
    """The driver as a whole did not answer: what is known holds, and all of it is out of service.

    No change was read, so deferred events wait for the next scan.
    """
    state = replace(state, changed=state.changed | state.scanned, scanned=frozenset())
    release = _unless_over(state.snapshot.release)
    return Step(decide(state, driver_error=reason, release=release))


def driver_unavailable(text: str) -> Reason:
    """Why the driver as a whole does not answer."""
    return Reason(Code.DRIVER_UNAVAILABLE, text, scope=Scope.NODE)


def _unless_over(release: Release | None) -> Release | None:
    """A release that has ended holds devices down until a scan has shown what is there now."""
    return None if release is not None and release.is_over else release


def _before(state: State) -> Before:
    """What is known before a scan."""
    snapshot = state.snapshot
    remembered = {
        uuid: entry.gpu_uuid for uuid, entry in snapshot.ledger.items() if entry.gi is not None
    }
    return Before(snapshot.inventory, remembered, state.unseen, state.scanned)


def _unread(inventory: Inventory) -> frozenset[str]:
    """What a scan could not read: by place and not by text, which may be another each time."""
    places = {f"GPU {index}" for index in inventory.unreadable}
    for gpu in inventory.gpus:
        places |= {f"{gpu.uuid}/{index}" for index in gpu.unreadable}
        places |= {device.uuid for device in gpu.mig_devices if device.error}
        if gpu.error or gpu.mig_unknown or gpu.uncounted:
            places.add(gpu.uuid)
    return frozenset(places)


def _scanned_health(gpu: Gpu, state: State, now: float) -> GpuHealth:
    old = state.snapshot
    health = old.gpu_health.get(gpu.uuid) or GpuHealth(reset_seen=now if state.rebooted else None)
    before = old.inventory.gpu(gpu.uuid)
    if before is not None and before.mig_devices and not gpu.mig_devices and not gpu.error:
        return replace(health, reset_seen=now)  # a reset leaves no instance behind
    return health


def _geometry(inventory: Inventory) -> list[tuple[str, bool | None]]:
    return [
        (device.uuid, device.mig.current if isinstance(device, Gpu) and device.mig else None)
        for device in inventory.devices()
    ]
