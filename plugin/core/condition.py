"""The node's condition and taint: whether all devices are healthy, and whether a GPU needs a reset.

Both are functions of the snapshot. Whoever writes them to the Node compares with what was written.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from plugin.core.configuration import refused
from plugin.core.grammars import Taint
from plugin.core.health.xids import CATALOGUE, Action
from plugin.core.inventory.model import Device
from plugin.core.notices import MOST_BYTES, name
from plugin.core.quote import shorten_bytes
from plugin.core.reasons import ORDERED, Code, Reason, texts, xid_code
from plugin.core.state import Snapshot

#: Of the message, for a configuration that was refused: what is wrong with devices counts more.
_CONFIGURATION_BYTES = 400
#: Devices that the message names; the others are counted.
_MOST_NAMED = 5
#: Reasons that only say that something could not be asked: whether the device is well is not known.
_UNASKED = frozenset({Code.NOT_ANSWERING, Code.UNREADABLE, Code.UNWATCHED, Code.DRIVER_UNAVAILABLE})
#: NVML's recovery actions that neither reset a GPU nor reboot: to drain peer-to-peer traffic and to
#: recover an IMEX domain.
_MILD_ACTIONS = frozenset({0, 3, 5})
#: XIDs after which only a reset or a reboot helps.
_RESETTING = frozenset(
    xid_code(xid)
    for xid, entry in CATALOGUE.items()
    if entry.action in {Action.RESET_GPU, Action.RESTART_NODE}
)


class Status(enum.StrEnum):
    """A condition's status."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Struct, frozen=True):
    """A condition of the Node. Its times are those of writing it: the heartbeat's always, the
    transition's where :func:`is_transition` says so.
    """

    type: str
    status: Status
    reason: str
    message: str


def condition(snapshot: Snapshot) -> Condition | None:
    """The condition that the settings ask for; ``None`` without one."""
    kind = snapshot.settings.node_condition
    if not kind:
        return None
    status, reason, message = _state(snapshot)
    if snapshot.configuration.problem:
        # Devices are as well as before, so the status says nothing of it.
        if status is Status.TRUE:
            reason = "ConfigurationRefused"
        end = f"; {refused(snapshot.configuration, _CONFIGURATION_BYTES)}"
        message = shorten_bytes(message, MOST_BYTES - len(end.encode())) + end
    return Condition(kind, status, reason, shorten_bytes(message, MOST_BYTES))


def ended(kind: str) -> Condition:
    """At an orderly end."""
    message = "mig-device-plugin has ended, so that nobody watches the devices"
    return Condition(kind, Status.UNKNOWN, "PluginStopped", message)


def is_transition(before: Condition | None, now: Condition) -> bool:
    """Whether the status is another, and not only its message."""
    return before is None or (before.type, before.status) != (now.type, now.status)


def _state(snapshot: Snapshot) -> tuple[Status, str, str]:
    if snapshot.driver_error is not None:
        return Status.UNKNOWN, "DriverUnavailable", snapshot.driver_error.text
    if not snapshot.geometry:
        return Status.UNKNOWN, "NotScanned", "the node has not been looked at yet"
    if (violation := snapshot.advertisement.violation) is not None:
        return Status.FALSE, "StrategyViolated", violation.text
    return _health(snapshot)


def _health(snapshot: Snapshot) -> tuple[Status, str, str]:
    ill = list(_ill(snapshot))
    faulty = [each for each in ill if any(reason.code not in _UNASKED for reason in each[1])]
    if faulty:
        return Status.FALSE, "DevicesUnhealthy", _message(faulty, "out of service")
    if ill:
        return Status.UNKNOWN, "DevicesUnreadable", _message(ill, "not readable")
    if unread := tuple(snapshot.inventory.unreadable.values()):
        return Status.UNKNOWN, "DevicesUnreadable", "; ".join(unread)
    count = len(_advertised(snapshot))
    if not count:
        return Status.TRUE, "NoDevices", "no device is advertised"
    return Status.TRUE, "DevicesHealthy", f"all {count} devices are healthy"


def _advertised(snapshot: Snapshot) -> dict[str, tuple[Device, tuple[Reason, ...]]]:
    """Devices in the lists, once each, with their faults."""
    return {
        item.device.uuid: (
            item.device,
            tuple(reason for reason in item.reasons if reason.code not in ORDERED),
        )
        for listed in snapshot.advertisement.resources.values()
        for item in listed
    }


def _ill(snapshot: Snapshot) -> Iterator[tuple[str, tuple[Reason, ...]]]:
    devices = sorted(_advertised(snapshot).values(), key=lambda each: each[0].order)
    for device, reasons in devices:
        if reasons:
            yield name(device), reasons
    # A GPU that fell off the bus is in no list any more.
    for uuid, entry in snapshot.ledger.items():
        faults = tuple(reason for reason in entry.reasons if reason.code not in ORDERED)
        if faults and snapshot.inventory.gpu(entry.gpu_uuid) is None:
            fix = f"if it was replaced: `mig-device-plugin health clear {uuid}`"
            yield f"{uuid}, which is not on the node any more ({fix})", faults


def _message(ill: Sequence[tuple[str, tuple[Reason, ...]]], how: str) -> str:
    named = [f"{what}: {texts(reasons)}" for what, reasons in ill[:_MOST_NAMED]]
    more = f"; and {len(ill) - _MOST_NAMED} more" if len(ill) > _MOST_NAMED else ""
    count = "1 device is" if len(ill) == 1 else f"{len(ill)} devices are"
    return f"{count} {how}: {'; '.join(named)}{more}"


# ---- the taint


def needs_reset(snapshot: Snapshot) -> tuple[str, ...]:
    """UUIDs of GPUs that only a reset, or a reboot of the node, brings back: also of those that
    have fallen off the bus, until the node boots without them.
    """
    known = (entry.gpu_uuid for entry in snapshot.ledger.values())
    uuids = dict.fromkeys((*(gpu.uuid for gpu in snapshot.inventory.gpus), *known))
    return tuple(uuid for uuid in uuids if _needs_reset(snapshot, uuid))


def _needs_reset(snapshot: Snapshot, uuid: str) -> bool:
    absent = snapshot.inventory.gpu(uuid) is None
    codes = {
        reason.code
        for entry in snapshot.ledger.values()
        if entry.gpu_uuid == uuid
        and not (absent and entry.rebooted and entry.absent_since is not None)
        for reason in entry.reasons
    }
    if codes & {Code.GPU_LOST, Code.GPU_UNAVAILABLE}:
        return True
    health = snapshot.gpu_health.get(uuid)
    action = health.probe.recovery_action if health is not None and health.probe else None
    if action is not None:
        return action not in _MILD_ACTIONS
    # The driver does not say, now or ever: what it asked for last, and the catalogue, hold.
    return Code.RECOVERY_ACTION in codes or bool(codes & _RESETTING)


def wanted_taint(snapshot: Snapshot) -> Taint | None:
    """The taint that the settings ask for, while it is due."""
    return snapshot.settings.node_taint if needs_reset(snapshot) else None


def tainted(
    now: Sequence[Taint], wanted: Taint | None, ours: Collection[Taint]
) -> tuple[tuple[Taint, ...], frozenset[Taint]]:
    """The node's taints to be, and those among them that are `ours` from then on.

    `ours` are those that this plugin has set before. One that somebody else has set, with the same
    key and effect, stays whatever happens, and is not taken for ours.
    """
    kept = tuple(taint for taint in now if taint not in ours or taint == wanted)
    still = frozenset(taint for taint in kept if taint in ours)
    if wanted is None or any((t.key, t.effect) == (wanted.key, wanted.effect) for t in kept):
        return kept, still
    return (*kept, wanted), still | {wanted}
