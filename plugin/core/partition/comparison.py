"""The present geometry of a node: as a configuration, and compared with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.partition.configuration import Configuration, Entry, Resolved, Wanted
from plugin.core.partition.planner import devices_of

CURRENT = "current"


class Exported(NamedTuple):
    """``losses`` is what the configuration cannot express or the driver does not say. With
    ``complete``, every GPU is in it.
    """

    configuration: Configuration
    losses: tuple[str, ...]
    complete: bool


def export(inventory: Inventory) -> Exported:
    """The present state as a configuration, one entry for GPUs that are alike."""
    losses: list[str] = list(inventory.unreadable.values())
    alike: dict[Wanted, list[int]] = {}
    for gpu in inventory.gpus:
        unknown = _unknown(gpu)
        if unknown:
            losses.append(f"GPU {gpu.index}: {unknown}")
            continue
        wanted = _present(gpu)
        alike.setdefault(wanted, []).append(gpu.index)
        losses += [
            f"GPU {gpu.index}: GPU instance {each.id} ({each.profile or '?'} at {each.placement}) "
            "has no compute instance: that is not in the file"
            for each in gpu.empty_instances()
        ]
        if gpu.mig_pending:
            losses.append(f"GPU {gpu.index}: a switch of MIG mode waits for a reset")
    known = sum(map(len, alike.values()))
    complete = known == len(inventory.gpus) and not inventory.unreadable
    whole = len(alike) == 1 and complete
    entries = (
        Entry(wanted, None if whole else tuple(indices)) for wanted, indices in alike.items()
    )
    return Exported(Configuration(CURRENT, tuple(entries)), tuple(losses), complete)


def differences(inventory: Inventory, wanted: Resolved) -> Mapping[int, str]:
    """The first difference of each GPU that the configuration names, by index; empty if it is
    applied.
    """
    found = dict(wanted.unreadable)
    for gpu in inventory.gpus:
        if gpu.uuid in wanted.wanted:
            difference = _difference(gpu, wanted.wanted[gpu.uuid])
            if difference:
                found[gpu.index] = difference
    return found


def geometry(gpu: Gpu) -> Wanted | None:
    """What a GPU has, ``None`` where the driver does not say."""
    return None if _unknown(gpu) else _present(gpu)


def _present(gpu: Gpu) -> Wanted:
    return Wanted.of(devices_of(gpu)) if gpu.mig_enabled else Wanted(mig=False)


def has(gpu: Gpu, wanted: Wanted) -> bool:
    """Whether a GPU certainly has a geometry."""
    return not gpu.hung and not _difference(gpu, wanted)


def _unknown(gpu: Gpu) -> str:
    unread = (
        gpu.error or gpu.mig_unknown or gpu.uncounted or next(iter(gpu.unreadable.values()), "")
    )
    unnamed = next((device for device in gpu.mig_devices if not device.profile), None)
    if unread or unnamed is None:
        return str(unread or "")
    return f"the profile of {unnamed.uuid} is not known"


def _difference(gpu: Gpu, wanted: Wanted) -> str:
    unknown = _unknown(gpu)
    if not unknown and not wanted.known:
        unknown = "the driver does not say which GPU instance profiles it has"
    if unknown:
        return unknown
    if gpu.mig_enabled != wanted.mig:
        return f"MIG mode is {_mode(gpu.mig_enabled)}, wanted {_mode(wanted.mig)}"
    if gpu.mig_pending:
        return f"MIG mode {_mode(not gpu.mig_enabled)} waits for a reset"
    present, needed = devices_of(gpu), dict(wanted.devices)
    for profile in sorted({*present, *needed}):
        if present[profile] != needed.get(profile, 0):
            return f"{present[profile]} × {profile}, wanted {needed.get(profile, 0)}"
    empty = gpu.empty_instances()
    if empty:
        return f"GPU instance {empty[0].id} has no compute instance"
    return ""


def _mode(on: bool) -> str:  # noqa: FBT001 — it is what the word is made of
    return "on" if on else "off"


def document(configurations: Sequence[Configuration]) -> dict[str, Any]:
    """Configurations as mig-parted's files write them."""
    return {
        "version": "v1",
        "mig-configs": {
            each.name: [_entry(entry) for entry in each.entries] for each in configurations
        },
    }


def _entry(entry: Entry) -> dict[str, Any]:
    filters = [f"0x{number:08X}" for number in sorted(entry.filters)]
    return {
        **({"device-filter": filters} if filters else {}),
        "devices": "all" if entry.devices is None else list(entry.devices),
        "mig-enabled": entry.wanted.mig,
        "mig-devices": dict(entry.wanted.devices),
    }
