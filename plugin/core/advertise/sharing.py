"""Time slicing: one device listed several times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plugin.core.advertise.listed import Listed, replica_id
from plugin.core.settings import SharedResource, Sharing


@dataclass(frozen=True, slots=True)
class Shared:
    """Lists with their replicas, the largest number of ids for one container by resource, and
    sentences about the node.
    """

    resources: Mapping[str, tuple[Listed, ...]]
    limits: Mapping[str, int]
    problems: tuple[str, ...]


def share(listed: Mapping[str, tuple[Listed, ...]], sharing: Sharing) -> Shared:
    """Replace shared devices by their replicas; those that are not chosen stay under the plain
    name.
    """
    plain = dict(listed)
    shared: dict[str, tuple[Listed, ...]] = {}
    limits: dict[str, int] = {}
    problems: list[str] = []
    for entry in sharing.resources:
        devices = listed.get(entry.name)
        if devices is None:
            continue  # one configuration serves nodes of several kinds
        chosen, unknown = _chosen(entry, devices)
        if unknown:
            problems.append(
                f"sharing of {entry.name}: no such device on this node: {', '.join(unknown)}"
            )
        replicas = tuple(
            Listed(replica_id(item.id, n), item.device, item.reasons)
            for item in chosen
            for n in range(entry.replicas)
        )
        taken = {item.id for item in chosen}
        plain[entry.name] = tuple(item for item in devices if item.id not in taken)
        name = entry.rename or (f"{entry.name}.shared" if sharing.rename_by_default else entry.name)
        shared[name] = shared.get(name, ()) + replicas
        if sharing.fail_requests_greater_than_one:
            limits[name] = 1
    result = {name: plain.get(name, ()) + shared.get(name, ()) for name in (*plain, *shared)}
    return Shared({name: ids for name, ids in result.items() if ids}, limits, tuple(problems))


def _chosen(
    entry: SharedResource, devices: tuple[Listed, ...]
) -> tuple[tuple[Listed, ...], list[str]]:
    match entry.devices:
        case None:
            return devices, []
        case int(count):
            return devices[:count], []
        case names:
            known = {name for item in devices for name in (item.device.uuid, item.device.path)}
            return (
                tuple(
                    item
                    for item in devices
                    if item.device.uuid in names or item.device.path in names
                ),
                [name for name in names if name not in known],
            )
