"""The node's state as a JSON document, for ``devices`` and the running daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from plugin.core.configuration import refused, waiting
from plugin.core.health.ledger import is_cordoned, of
from plugin.core.inventory.model import Device, Gpu, Placement
from plugin.core.reasons import Code, Reason
from plugin.core.release import describe
from plugin.core.state import Snapshot

#: The origin of a document: the running daemon, or a scan by the command itself.
Source = Literal["daemon", "scan"]


class DeviceStatus(Struct, frozen=True):
    """``health`` is healthy, unhealthy, or withheld (not advertised)."""

    resource: str | None
    health: str
    reasons: tuple[Reason, ...] = ()


def status(device: Device, snapshot: Snapshot) -> DeviceStatus | None:
    """``None`` for a GPU that only carries MIG devices and has no reasons."""
    offer = snapshot.advertisement.offer(device.uuid)
    if offer is not None:
        item = offer.listed
        return DeviceStatus(
            offer.resource, "healthy" if item.healthy else "unhealthy", item.reasons
        )
    ledger = snapshot.ledger
    reasons = of(ledger, device.uuid)
    if device.gpu_uuid != device.uuid:
        reasons += of(ledger, device.gpu_uuid)
    withheld = snapshot.advertisement.withheld.get(device.uuid)
    if withheld is not None:
        return DeviceStatus(None, "withheld", (withheld, *reasons))
    if device.error:
        hung = isinstance(device, Gpu) and device.hung
        code = Code.NOT_ANSWERING if hung else Code.UNREADABLE
        reasons = (*reasons, Reason(code, device.error))
    return DeviceStatus(None, "unhealthy", reasons) if reasons else None


def document(snapshot: Snapshot, source: Source) -> dict[str, Any]:
    """See docs/commands.md."""
    inventory, advertisement = snapshot.inventory, snapshot.advertisement
    return {
        "source": source,
        "generation": snapshot.generation if source == "daemon" else None,
        "driver": {
            "version": inventory.driver_version,
            "nvml": inventory.nvml_version,
            "cuda": ".".join(map(str, inventory.cuda_version)) if inventory.cuda_version else None,
        },
        "configuration": {
            "name": snapshot.configuration.name or None,
            "problem": snapshot.configuration.problem or None,
            "waiting": [change._asdict() for change in snapshot.configuration.waiting],
        },
        "strategy": snapshot.settings.mig_strategy.value,
        "resources": {
            name: {"devices": len(listed), "healthy": sum(item.healthy for item in listed)}
            for name, listed in advertisement.resources.items()
        },
        "gpus": [
            {
                **_common(gpu, snapshot),
                "index": gpu.index,
                "minor": gpu.minor,
                "product": gpu.product,
                "pciBusId": gpu.pci_bus_id,
                "pciDeviceId": f"0x{gpu.pci_device_id:08X}" if gpu.pci_device_id else None,
                "computeCapability": ".".join(map(str, gpu.compute_capability))
                if gpu.compute_capability
                else None,
                "mig": {"current": gpu.mig.current, "pending": gpu.mig.pending}
                if gpu.mig
                else None,
                "memorySlices": gpu.memory_slices,
                "migDevices": [
                    {
                        **_common(device, snapshot),
                        "index": device.index,
                        "profile": device.profile or None,
                        "gi": device.gi,
                        "ci": device.ci,
                        "placement": _placement(device.placement),
                        "multiprocessors": device.multiprocessors,
                    }
                    for device in gpu.mig_devices
                ],
                "emptyInstances": [
                    {
                        "gi": each.id,
                        "profile": each.profile or None,
                        "placement": _placement(each.placement),
                    }
                    for each in gpu.empty_instances()
                ],
            }
            for gpu in inventory.gpus
        ],
        "controlNodes": list(inventory.control_nodes),
        "cordoned": [uuid for uuid in snapshot.ledger if is_cordoned(snapshot.ledger, uuid)],
        "released": _released(snapshot),
        "problems": list(_problems(snapshot)),
    }


def _placement(at: Placement | None) -> dict[str, int] | None:
    return {"start": at.start, "size": at.size} if at else None


def _released(snapshot: Snapshot) -> dict[str, Any] | None:
    release = snapshot.release
    if release is None:
        return None
    return {
        "text": describe(release, snapshot.inventory),
        "phase": release.phase.value,
        "until": release.until,
        "gpus": sorted(release.gpus),
        "left": list(release.left),
    }


def _common(device: Device, snapshot: Snapshot) -> dict[str, Any]:
    found = status(device, snapshot)
    return {
        "uuid": device.uuid,
        "memoryMiB": device.memory_mib,
        "numa": device.numa,
        "nodes": list(device.device_nodes),
        "missingNodes": list(device.missing_device_nodes),
        "resource": found.resource if found else None,
        "health": found.health if found else None,
        "reasons": [_reason(reason) for reason in (found.reasons if found else ())],
    }


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "code": str(reason.code),
        "text": reason.text,
        "since": reason.since,
        "clears": reason.clears.value if reason.clears else None,
        "scope": reason.scope.value,
    }


def _problems(snapshot: Snapshot) -> Iterator[str]:
    """The driver's error first, if there is one, then a release of the driver."""
    if snapshot.driver_error:
        yield snapshot.driver_error.text
    if snapshot.release:
        yield describe(snapshot.release, snapshot.inventory)
    if snapshot.configuration.problem:
        yield refused(snapshot.configuration)
    if snapshot.configuration.waiting:
        yield waiting(snapshot.configuration)
    yield from dict.fromkeys(snapshot.specified.errors.values())
    yield from snapshot.advertisement.problems
    yield from dict.fromkeys(snapshot.inventory.warnings())
