"""The subjects of device metrics: each GPU and MIG device with its labels, status, holders and
sample.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from plugin.core.advertise.listed import device_uuid
from plugin.core.health.events import Probe
from plugin.core.health.ledger import Entry
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.model import Device, Gpu, MigDevice
from plugin.core.inventory.samples import CardSample, DeviceSample
from plugin.core.status import DeviceStatus, status
from plugin.core.view import Holder, View
from plugin.web.metrics.family import Labels

IDENTITY = ("gpu", "uuid", "parent_uuid", "profile", "gi", "ci", "resource")
HOLDER = ("namespace", "pod", "container")
DEVICE = (*IDENTITY, *HOLDER)
CARD = ("gpu", "uuid")

_NO_ENTRY = Entry("")
_NO_HEALTH = GpuHealth()
_NO_CARD = CardSample()


class Subject(Struct, frozen=True):
    """One GPU or MIG device.

    ``device_labels`` are :data:`DEVICE`, ``identity`` the same without a holder. ``holders`` are
    distinct and sorted. ``allocatable`` is false for a GPU that only carries MIG devices. ``entry``
    and ``of_gpu`` are the ledger entries of the device and of its GPU.
    """

    device: Device
    gpu: Gpu
    status: DeviceStatus | None
    allocatable: bool
    entry: Entry
    of_gpu: Entry
    sample: DeviceSample | None
    holders: tuple[Holder, ...]
    identity: Labels
    device_labels: Labels


class Card(Struct, frozen=True):
    """One physical GPU with its newest sample and probe, empty if there is none."""

    gpu: Gpu
    sample: CardSample
    probe: Probe
    labels: Labels

    @property
    def remap_failure(self) -> bool | None:
        """From the sample, or from the probe if nothing is sampled."""
        return (
            self.probe.remap_failure
            if self.sample.remap_failure is None
            else self.sample.remap_failure
        )


def subjects(view: View) -> tuple[Subject, ...]:
    """Every device once, in inventory order."""
    holders = _holders(view.holders or {})
    found = {
        device.uuid: _subject(device, gpu, view, holders.get(device.uuid, ()))
        for gpu in view.snapshot.inventory.gpus
        for device in _devices(gpu)
    }
    return tuple(found.values())


def cards(view: View) -> tuple[Card, ...]:
    samples = view.samples.cards if view.samples else {}
    found = {
        gpu.uuid: Card(
            gpu,
            samples.get(gpu.uuid, _NO_CARD),
            view.snapshot.gpu_health.get(gpu.uuid, _NO_HEALTH).probe or Probe(gpu.uuid),
            {"gpu": str(gpu.index), "uuid": gpu.uuid},
        )
        for gpu in view.snapshot.inventory.gpus
    }
    return tuple(found.values())


def holder_labels(holders: tuple[Holder, ...]) -> Labels:
    """The names of a single holder; empty for several, since one of them would be a guess."""
    if len(holders) != 1:
        return dict.fromkeys(HOLDER, "")
    (holder,) = holders
    return {"namespace": holder.namespace, "pod": holder.pod, "container": holder.container}


def _holders(by_id: Mapping[str, tuple[Holder, ...]]) -> dict[str, tuple[Holder, ...]]:
    """By device; a container with two replicas of one device counts once."""
    found: dict[str, set[Holder]] = {}
    for name, holders in by_id.items():
        found.setdefault(device_uuid(name), set()).update(holders)
    return {uuid: tuple(sorted(holders)) for uuid, holders in found.items()}


def _devices(gpu: Gpu) -> tuple[Device, ...]:
    return (gpu, *gpu.mig_devices)


def _subject(device: Device, gpu: Gpu, view: View, holders: tuple[Holder, ...]) -> Subject:
    found = status(device, view.snapshot)
    resource = (found.resource if found else None) or ""
    instance = device if isinstance(device, MigDevice) else None
    allocatable = instance is not None or not gpu.mig_devices or bool(resource)
    identity = {
        "gpu": str(gpu.index),
        "uuid": device.uuid,
        "parent_uuid": gpu.uuid,
        "profile": instance.profile if instance else "",
        "gi": str(instance.gi) if instance else "",
        "ci": str(instance.ci) if instance else "",
        "resource": resource,
    }
    ledger = view.snapshot.ledger
    return Subject(
        device=device,
        gpu=gpu,
        status=found,
        allocatable=allocatable,
        entry=ledger.get(device.uuid, _NO_ENTRY),
        of_gpu=ledger.get(gpu.uuid, _NO_ENTRY),
        # A GPU that was divided after the sample is no longer a device.
        sample=view.samples.devices.get(device.uuid) if view.samples and allocatable else None,
        holders=holders,
        identity=identity,
        device_labels={**identity, **holder_labels(holders)},
    )
