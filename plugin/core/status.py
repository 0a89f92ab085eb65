"""The node's state as one document of JSON's types: what ``devices`` shows and what a running
daemon answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from plugin.core.health.ledger import CORDONED, Ledger
from plugin.core.health.ledger import Reason as Held
from plugin.core.inventory.model import Device, Gpu, MigDevice
from plugin.core.state import Snapshot

#: Where a document comes from: a running daemon's state, or a look of its own.
Source = Literal["daemon", "scan"]


@dataclass(frozen=True, slots=True)
class Why:
    """One reason why a device is not healthy.

    ``since`` is in seconds of the wall clock and ``clears`` what ends it (``recovery`` or
    ``operator``); both are ``None`` for what is only wrong as long as it is seen to be.
    """

    code: str
    text: str
    since: float | None = None
    clears: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a device stands: ``health`` is healthy, unhealthy, or withheld (on the node,
    in no list).
    """

    resource: str | None
    health: str
    reasons: tuple[Why, ...] = ()


def standing(device: Device, snapshot: Snapshot) -> Standing | None:
    """``None`` for a GPU that only carries MIG devices and has nothing against it."""
    advertisement = snapshot.advertisement
    held = _held(device, snapshot.ledger)
    for resource, listed in advertisement.resources.items():
        for item in listed:
            if item.device.uuid == device.uuid:
                # A GPU that is offered whole is down for its parts' reasons too.
                parts = device.mig_devices if isinstance(device, Gpu) else ()
                known = {r.text: r for part in parts for r in _held(part, snapshot.ledger)} | {
                    r.text: r for r in held
                }
                reasons = tuple(_explained(text, device, snapshot, known) for text in item.reasons)
                return Standing(resource, "healthy" if item.healthy else "unhealthy", reasons)
    reasons = tuple(map(_from_ledger, held))
    withheld = advertisement.withheld.get(device.uuid)
    if withheld is not None:
        return Standing(None, "withheld", (Why("withheld", withheld), *reasons))
    if device.error:
        reasons = (*reasons, Why("unreadable", device.error))
    return Standing(None, "unhealthy", reasons) if reasons else None


def _held(device: Device, ledger: Ledger) -> tuple[Held, ...]:
    """The ledger's reasons against a device: its own and those of its GPU."""
    uuids = (device.uuid, device.gpu_uuid) if isinstance(device, MigDevice) else (device.uuid,)
    return tuple(reason for uuid in uuids if uuid in ledger for reason in ledger[uuid].reasons)


def _from_ledger(reason: Held) -> Why:
    return Why(reason.code, reason.text, reason.since, reason.clears.value)


def _explained(text: str, device: Device, snapshot: Snapshot, held: dict[str, Held]) -> Why:
    """A reason of the advertisement, which only has words, with what is known about it."""
    if text in held:
        return _from_ledger(held[text])
    if text == snapshot.driver_error:
        return Why("driver-unavailable", text)
    if text in snapshot.unwatched.values():
        return Why("unwatched", text)
    if text == device.error:
        return Why("unreadable", text)
    return Why("missing-node", text)


def document(snapshot: Snapshot, source: Source) -> dict[str, Any]:
    """The JSON form; documented in docs/commands.md."""
    inventory, advertisement = snapshot.inventory, snapshot.advertisement
    return {
        "source": source,
        "generation": snapshot.generation if source == "daemon" else None,
        "driver": {
            "version": inventory.driver_version,
            "nvml": inventory.nvml_version,
            "cuda": ".".join(map(str, inventory.cuda_version)) if inventory.cuda_version else None,
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
                        "placement": {
                            "start": device.placement.start,
                            "size": device.placement.size,
                        }
                        if device.placement
                        else None,
                        "multiprocessors": device.multiprocessors,
                    }
                    for device in gpu.mig_devices
                ],
            }
            for gpu in inventory.gpus
        ],
        "controlNodes": list(inventory.control_nodes),
        "cordoned": [uuid for uuid, entry in snapshot.ledger.items() if entry.reason(CORDONED)],
        "problems": list(_problems(snapshot)),
    }


def _common(device: Device, snapshot: Snapshot) -> dict[str, Any]:
    stands = standing(device, snapshot)
    return {
        "uuid": device.uuid,
        "memoryMiB": device.memory_mib,
        "numa": device.numa,
        "nodes": list(device.nodes),
        "missingNodes": list(device.missing),
        "resource": stands.resource if stands else None,
        "health": stands.health if stands else None,
        "reasons": [
            {"code": why.code, "text": why.text, "since": why.since, "clears": why.clears}
            for why in (stands.reasons if stands else ())
        ],
    }


def _problems(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.driver_error:
        yield snapshot.driver_error
    yield from snapshot.advertisement.problems
    yield from dict.fromkeys(snapshot.inventory.warnings())
