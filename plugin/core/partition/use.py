"""Who uses which device, from all that can be known about it."""

from __future__ import annotations

from collections.abc import Mapping

from plugin.core.advertise.listed import device_uuid
from plugin.core.holders import Holdings
from plugin.core.inventory.geometry import Client
from plugin.core.inventory.model import Inventory
from plugin.core.partition.planner import InUse
from plugin.core.partition.steps import Occupant

#: In place of the holders of a device of which nobody says whether it is free.
UNKNOWN_HOLDER = Occupant("an unknown pod: kubelet's pod resources do not answer")
#: Kubelet lists the pod a moment after the allocation.
HANDED_OUT = Occupant("a pod that was given it a moment ago")


def in_use(
    inventory: Inventory,
    holdings: Holdings | None,
    clients: Mapping[str, tuple[Client, ...]],
) -> InUse:
    """By the UUID of the device. `holdings` are ``None`` where nobody hands out devices; `clients`
    are the processes of each GPU that answered.

    A device without a known holder counts as free only while kubelet's answers are complete.
    """
    found: dict[str, set[Occupant]] = {}
    if holdings is not None:
        for listed, holders in holdings.holders.items():
            pods = {Occupant(f"{each.namespace}/{each.pod}", pod=True) for each in holders}
            found.setdefault(device_uuid(listed), set()).update(pods)
        for listed in holdings.handed_out:
            found.setdefault(device_uuid(listed), set()).add(HANDED_OUT)
    for uuid, processes in _by_device(inventory, clients).items():
        # Those of a pod are named by the pod.
        if uuid not in found:
            found[uuid] = {Occupant(f"process {pid}") for pid in processes}
    if holdings is not None and (not holdings.trusted or holdings.silent):
        for device in inventory.devices():
            found.setdefault(device.uuid, {UNKNOWN_HOLDER})
    return {uuid: tuple(sorted(occupants)) for uuid, occupants in found.items()}


def _by_device(
    inventory: Inventory, clients: Mapping[str, tuple[Client, ...]]
) -> Mapping[str, set[int]]:
    found: dict[str, set[int]] = {}
    for gpu in inventory.gpus:
        devices = {(device.gi, device.ci): device.uuid for device in gpu.mig_devices}
        for client in clients.get(gpu.uuid, ()):
            if client.gi is None:
                uuids = [gpu.uuid]
            elif client.ci is None:  # any compute instance of it
                uuids = [uuid for (gi, _), uuid in devices.items() if gi == client.gi]
            else:
                uuids = [devices.get((client.gi, client.ci), gpu.uuid)]
            for uuid in uuids:
                found.setdefault(uuid, set()).add(client.pid)
    return found
