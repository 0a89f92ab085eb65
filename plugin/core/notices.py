"""What the cluster should be told of a change: one value for each Event to be.

A notice is about the node, or about a pod that holds a device concerned. Which of them become
Events, and when, :mod:`plugin.core.series` decides.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.advertise.withdrawal import NO_WITHDRAWAL
from plugin.core.configuration import accepted, refused
from plugin.core.health.ledger import Entry
from plugin.core.holders import Holders, of_devices
from plugin.core.inventory.model import Device, Gpu, Inventory, MigDevice
from plugin.core.quote import shorten_bytes
from plugin.core.reasons import Clears, Code, Reason
from plugin.core.state import Snapshot

#: As the API server limits the text of an Event.
MOST_BYTES = 1024


class Kind(enum.StrEnum):
    """An Event's type."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Pod(NamedTuple):
    namespace: str
    name: str


class Notice(Struct, frozen=True):
    """``pod`` is ``None`` for the node. ``reason`` and ``action`` are the Event's.

    Notices of one ``cause`` about one object are one Event, repeated. Of those with one ``topic``
    only the newest tells how things stand.
    """

    pod: Pod | None
    kind: Kind
    reason: str
    message: str
    action: str
    cause: str
    topic: str


#: Reasons of Events by codes of reasons; other faults are ``DeviceFault``.
_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        Code.GPU_LOST: "GpuLost",
        Code.GPU_UNAVAILABLE: "GpuLost",
        Code.RECOVERY_ACTION: "GpuNeedsRecovery",
        Code.REPEATED_APPLICATION_FAULTS: "RepeatedApplicationFaults",
    }
)
_WAIT = (
    "it gets no new pods until it has recovered; `mig-device-plugin devices` on the node says why"
)
_ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        Code.GPU_LOST: "reset the GPU or reboot the node",
        Code.GPU_UNAVAILABLE: "reset the GPU or reboot the node",
        Code.RECOVERY_ACTION: "drain the GPU, then do what the driver asks for",
        Code.REPEATED_APPLICATION_FAULTS: "look at the applications that used it; it gets no new "
        "pods for a while",
        Code.REMAP_FAILURE: "drain the GPU and have the card checked",
    }
)

_CORRECT = "; once corrected it is applied without a restart"


def notices(old: Snapshot, new: Snapshot, holders: Holders) -> tuple[Notice, ...]:
    """What is new between two snapshots, where `holders` held the devices."""
    return tuple(_Change(old, new, holders).all())


def name(device: Device) -> str:
    """A device in a sentence: how commands call it, what it is, and its UUID."""
    if isinstance(device, Gpu):
        return f"GPU {device.path} ({device.uuid})"
    kind = f"{device.profile}, " if device.profile else ""
    return f"MIG device {device.path} ({kind}{device.uuid})"


class _Change:
    """The difference between two snapshots."""

    def __init__(self, old: Snapshot, new: Snapshot, holders: Holders) -> None:
        self._old, self._new, self._holders = old, new, holders

    def all(self) -> Iterator[Notice]:
        yield from self._driver()
        for uuid in dict.fromkeys((*self._old.ledger, *self._new.ledger)):
            yield from self._ledger(uuid)
        for gpu in self._new.inventory.gpus:
            yield from self._answers(gpu)
        if self._old.geometry and self._new.geometry != self._old.geometry:
            yield from self._geometry()
        yield from self._strategy()
        yield from self._resources()
        yield from self._configuration()

    # ---- health

    def _ledger(self, uuid: str) -> Iterator[Notice]:
        before = self._old.ledger.get(uuid) or Entry(uuid)
        after = self._new.ledger.get(uuid)
        device = self._new.inventory.device(uuid)
        if after is None and device is None:
            return  # its device is gone, which is news of its own
        after = after or Entry(before.gpu_uuid)
        known = {reason.code: reason for reason in before.reasons}
        for reason in after.reasons:
            if _is_news(known.get(reason.code), reason):
                yield from self._fault(uuid, reason)
        held = {reason.code for reason in after.reasons}
        ended = [reason for reason in before.reasons if reason.code not in held]
        yield from self._ended(uuid, ended, after)
        if after.flaps > before.flaps:
            quiet = after.quiet_needed(self._new.settings.quiet_seconds)
            text = (
                f"has failed {after.flaps + 1} times, each soon after it had recovered; it returns "
                f"after {quiet:g} s without a fault: have it checked"
            )
            yield from self._device(
                uuid, Kind.WARNING, "DeviceFlapping", text, "HoldDown", f"flapping/{uuid}"
            )

    def _fault(self, uuid: str, reason: Reason) -> Iterator[Notice]:
        if reason.code == Code.CORDONED:
            text = "cordoned by an operator: it gets no new pods until it is uncordoned"
            yield from self._device(
                uuid, Kind.NORMAL, "DeviceCordoned", text, "Cordon", f"cordon/{uuid}"
            )
            return
        text = f"{reason.text}; {_ADVICE.get(reason.code, _WAIT)}"
        event = _REASONS.get(reason.code, "DeviceFault")
        topic = f"health/{uuid}"
        for notice in self._device(uuid, Kind.WARNING, event, text, "TakeOutOfService", topic):
            yield replace(notice, cause=f"{notice.cause}/{reason.code}")

    def _ended(self, uuid: str, ended: Collection[Reason], after: Entry) -> Iterator[Notice]:
        if any(reason.code == Code.CORDONED for reason in ended):
            text = "uncordoned by an operator"
            yield from self._device(
                uuid, Kind.NORMAL, "DeviceUncordoned", text, "Uncordon", f"cordon/{uuid}"
            )
        faults = [reason.text for reason in ended if reason.clears is Clears.RECOVERY]
        if faults and not any(reason.clears is Clears.RECOVERY for reason in after.reasons):
            text = f"has recovered from: {'; '.join(faults)}"
            if after.reason(Code.CORDONED) is not None:
                text += "; it stays cordoned"
            yield from self._device(
                uuid, Kind.NORMAL, "DeviceRecovered", text, "PutInService", f"health/{uuid}"
            )

    def _answers(self, gpu: Gpu) -> Iterator[Notice]:
        before = self._old.inventory.gpu(gpu.uuid)
        was = before is not None and before.hung
        if gpu.hung == was:
            return
        topic = f"answers/{gpu.uuid}"
        if gpu.hung:
            text = f"{gpu.error}; if it stays so, reboot the node"
            yield from self._device(
                gpu.uuid, Kind.WARNING, "GpuNotAnswering", text, "TakeOutOfService", topic
            )
        else:
            yield from self._device(
                gpu.uuid, Kind.NORMAL, "GpuAnswers", "answers again", "PutInService", topic
            )

    def _driver(self) -> Iterator[Notice]:
        was, now = self._old.driver_error, self._new.driver_error
        if now is not None and was is None:
            yield _of_node(
                Kind.WARNING, "DriverUnavailable", now.text, "TakeOutOfService", "driver"
            )
        elif was is not None and now is None:
            text = "the driver answers again"
            yield _of_node(Kind.NORMAL, "DriverAvailable", text, "PutInService", "driver")

    # ---- what is there

    def _geometry(self) -> Iterator[Notice]:
        old, new = self._old.inventory, self._new.inventory
        for gpu in old.gpus:
            if new.gpu(gpu.uuid) is None:
                text = "is not on the node any more; see the kernel log (dmesg)"
                yield from self._device(
                    gpu.uuid, Kind.WARNING, "GpuLost", text, "Withdraw", f"health/{gpu.uuid}"
                )
        for device in old.devices():
            if isinstance(device, MigDevice) and new.device(device.uuid) is None:
                for pod in self._pods(device):
                    text = f"{name(device)}, which this pod holds, does not exist any more; start "
                    yield Notice(
                        pod,
                        Kind.WARNING,
                        "DeviceRemoved",
                        shorten_bytes(f"{text}the pod anew", MOST_BYTES),
                        "Withdraw",
                        f"removed/{device.uuid}",
                        f"health/{device.uuid}",
                    )
        changed = [gpu.path for gpu in new.gpus if _parts(old.gpu(gpu.uuid)) != _parts(gpu)]
        where = f"; changed: GPU {', '.join(changed)}" if changed else ""
        text = f"the node has {_contents(new)}{where}"
        yield _of_node(Kind.NORMAL, "GeometryChanged", text, "Advertise", "geometry")

    def _strategy(self) -> Iterator[Notice]:
        was, now = self._old.advertisement.violation, self._new.advertisement.violation
        if now is not None and (was is None or was.text != now.text):
            yield _of_node(Kind.WARNING, "StrategyViolated", now.text, "Withdraw", "strategy")
        elif was is not None and now is None:
            strategy = self._new.settings.mig_strategy
            text = f"the node obeys the rules of --mig-strategy={strategy}"
            yield _of_node(Kind.NORMAL, "StrategyObeyed", text, "Advertise", "strategy")

    def _resources(self) -> Iterator[Notice]:
        now = self._new.advertisement.resources
        gone = [resource for resource in self._old.advertisement.resources if resource not in now]
        if not gone:
            return
        # After a change of geometry or settings, or for one, that is what was asked for.
        partitioning = self._new.withdrawal != NO_WITHDRAWAL
        changes = partitioning or self._new.geometry != self._old.geometry
        wanted = changes and not self._new.advertisement.violation
        text = f"no longer advertised: {', '.join(gone)}; `mig-device-plugin devices` says why"
        kind = Kind.NORMAL if wanted else Kind.WARNING
        yield _of_node(kind, "ResourcesWithdrawn", text, "Withdraw", "resources")

    def _configuration(self) -> Iterator[Notice]:
        was, now = self._old.configuration, self._new.configuration
        if now.problem == was.problem:
            return
        if not now.problem:
            yield _of_node(
                Kind.NORMAL,
                "ConfigurationAccepted",
                accepted(now),
                "ApplyConfiguration",
                "configuration",
            )
            return
        text = f"{refused(now, MOST_BYTES - len(_CORRECT))}{_CORRECT}"
        refusal = _of_node(
            Kind.WARNING, "ConfigurationRefused", text, "KeepConfiguration", "configuration"
        )
        # An Event keeps its text when it is repeated.
        yield replace(refusal, cause=f"{refusal.cause}/{now.problem}")

    # ---- about whom

    def _device(
        self, uuid: str, kind: Kind, reason: str, text: str, action: str, topic: str
    ) -> Iterator[Notice]:
        """For the node, and for each pod that holds the device or a part of it."""
        device = self._new.inventory.device(uuid) or self._old.inventory.device(uuid)
        message = f"{name(device) if device is not None else uuid}: {text}"
        made = Notice(
            None,
            kind,
            reason,
            shorten_bytes(message, MOST_BYTES),
            action,
            f"{reason}/{uuid}",
            topic,
        )
        yield made
        if device is None:
            return
        message = shorten_bytes(f"This pod holds a device concerned. {message}", MOST_BYTES)
        for pod in self._pods(device):
            yield replace(made, pod=pod, message=message)

    def _pods(self, device: Device) -> list[Pod]:
        before = self._old.inventory.device(device.uuid)
        parts = (*device.parts, *(before.parts if before is not None else ()))
        uuids = {device.uuid, *(part.uuid for part in parts)}
        held = of_devices(self._holders, uuids).values()
        return sorted({Pod(each.namespace, each.pod) for who in held for each in who})


def _is_news(known: Reason | None, reason: Reason) -> bool:
    """Whether a reason is new, or has happened again: after the wall clock was set, the times of
    one that has not are others too.
    """
    if known is None:
        return True
    if reason.clears is not Clears.RECOVERY or reason.last is None or known.last is None:
        return False
    return reason.since == known.since and reason.last > known.last


def _of_node(kind: Kind, reason: str, text: str, action: str, topic: str) -> Notice:
    return Notice(None, kind, reason, shorten_bytes(text, MOST_BYTES), action, reason, topic)


def _parts(gpu: Gpu | None) -> tuple[str, ...] | None:
    return tuple(part.uuid for part in gpu.mig_devices) if gpu is not None else None


def _contents(inventory: Inventory) -> str:
    profiles = Counter(part.profile or "?" for gpu in inventory.gpus for part in gpu.mig_devices)
    whole = sum(not gpu.mig_enabled and not gpu.mig_devices for gpu in inventory.gpus)
    found = [f"{count} × {profile}" for profile, count in sorted(profiles.items())]
    found += [f"{whole} × a whole GPU"] if whole else []
    return ", ".join(found) or "no devices"
