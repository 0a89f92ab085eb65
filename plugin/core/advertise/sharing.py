"""Time slicing: one device listed several times."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from plugin.core.advertise.listed import Listed, replica_id
from plugin.core.settings import SharedResource, Sharing

#: Shares that one node lists in all. Kubelet keeps each id, and who holds it, in its checkpoint.
MOST_SHARES = 65_536
#: Kubelet's gRPC client takes no larger message, and a list is one message.
LIST_BYTES = 4 * 2**20
#: A device takes this much in the list beside its id: its health, its NUMA node, and lengths.
_BYTES_BESIDE_ID = 24


class Shared(Struct, frozen=True):
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
    left = MOST_SHARES
    for entry in sharing.resources:
        devices = listed.get(entry.name)
        if devices is None:
            continue  # one configuration serves nodes of several kinds
        chosen, refused = _chosen(entry, devices, plain[entry.name], sharing)
        problems += [f"sharing of {entry.name}: {problem}" for problem in refused]
        name = entry.rename or (f"{entry.name}.shared" if sharing.rename_by_default else entry.name)
        before = shared.get(name, ())
        count = _fitting(entry.replicas, chosen, left, (*before, *plain.get(name, ())))
        if count < entry.replicas:
            problems.append(
                f"sharing of {entry.name}: {entry.replicas} replicas of each of {len(chosen)} "
                f"devices do not fit, so each is listed {count} times; a node lists at most "
                f"{MOST_SHARES} shares, and kubelet takes lists of at most {LIST_BYTES >> 20} MiB"
            )
        left -= count * len(chosen)
        shared[name] = before + tuple(
            Listed(replica_id(item.id, n), item.device, item.reasons)
            for item in chosen
            for n in range(count)
        )
        taken = {item.id for item in chosen}
        plain[entry.name] = tuple(item for item in plain[entry.name] if item.id not in taken)
        if sharing.fail_requests_greater_than_one:
            limits[name] = 1
    result = {name: plain.get(name, ()) + shared.get(name, ()) for name in (*plain, *shared)}
    return Shared({name: ids for name, ids in result.items() if ids}, limits, tuple(problems))


def _fitting(replicas: int, chosen: Sequence[Listed], left: int, others: Sequence[Listed]) -> int:
    """How often each of `chosen` can be listed beside `others`: at least once, and as often as
    `replicas` if that fits.
    """
    if not chosen:
        return replicas
    longest = max(len(replica_id(item.id, replicas)) for item in chosen)
    room = LIST_BYTES - sum(len(item.id) + _BYTES_BESIDE_ID for item in others)
    most = min(left, room // (longest + _BYTES_BESIDE_ID)) // len(chosen)
    return max(1, min(replicas, most))


def _chosen(
    entry: SharedResource, devices: Sequence[Listed], free: Sequence[Listed], sharing: Sharing
) -> tuple[Sequence[Listed], list[str]]:
    """The devices that `entry` shares, and what is wrong with its list. `free` are those of
    `devices` that no earlier entry shares.
    """
    match entry.devices:
        case None:
            return free, []
        case int(count):
            # Those that another entry names are that entry's.
            elsewhere = {
                name
                for other in sharing.resources
                if other.name == entry.name and isinstance(other.devices, tuple)
                for name in other.devices
            }
            return [item for item in free if not _named(item, elsewhere)][:count], []
        case names:
            wanted = frozenset(names)
            known = {name for item in devices for name in (item.device.uuid, item.device.path)}
            unknown = [name for name in names if name not in known]
            there = {item.id for item in free}
            twice = [
                item.device.uuid
                for item in devices
                if _named(item, wanted) and item.id not in there
            ]
            refused = [f"no such device on this node: {', '.join(unknown)}"] if unknown else []
            if twice:
                refused.append(f"another entry shares these already: {', '.join(twice)}")
            return [item for item in free if _named(item, wanted)], refused


def _named(item: Listed, names: Collection[str]) -> bool:
    return item.device.uuid in names or item.device.path in names
