"""The section ``sharing`` of a configuration file."""

from __future__ import annotations

from plugin.config import keys
from plugin.config.options import refusal
from plugin.config.resource_names import RESOURCE, full, is_resource
from plugin.core.advertise.sharing import LIST_BYTES, MOST_SHARES
from plugin.core.grammars import BOOLEAN
from plugin.core.settings import SharedResource, Sharing
from plugin.errors import ConfigError

_SLICING = "sharing.timeSlicing"
_REPLICAS = (
    f"a number from 1 to {MOST_SHARES}, the most that a node may list; the list of one resource "
    f"has at most {LIST_BYTES >> 20} MiB, which is what kubelet takes"
)


def parse(where: str, value: object, warnings: list[str]) -> Sharing:
    """Raises :class:`ConfigError`; adds to `warnings`."""
    sharing = keys.mapping(where, "sharing", value)
    keys.refuse_unknown(where, "sharing", sharing, keys.SHARING)
    if sharing.get("mps"):
        raise ConfigError(f"{where}: sharing.mps: MPS is not supported; choose sharing.timeSlicing")
    slicing = keys.mapping(where, _SLICING, sharing.get("timeSlicing"))
    keys.refuse_unknown(where, _SLICING, slicing, keys.TIME_SLICING)
    entries = slicing.get("resources") or []
    if not isinstance(entries, list):
        raise refusal(f"{where}: {_SLICING}.resources", entries, "a list")
    resources = tuple(
        _shared(where, f"{_SLICING}.resources[{number}]", entry)
        for number, entry in enumerate(entries)
    )
    _refuse_overlaps(where, resources)
    if any(entry.replicas == 1 for entry in resources):
        warnings.append(f"{where}: {_SLICING}: one replica shares nothing")
    flags = {}
    for key in ("renameByDefault", "failRequestsGreaterThanOne"):
        try:
            flags[key] = slicing.get(key) is not None and BOOLEAN.parse(slicing[key])
        except ValueError:
            raise refusal(f"{where}: {_SLICING}.{key}", slicing[key], BOOLEAN.choices) from None
    return Sharing(resources, flags["renameByDefault"], flags["failRequestsGreaterThanOne"])


def _refuse_overlaps(where: str, resources: tuple[SharedResource, ...]) -> None:
    """Several entries may share one resource, each its own devices. That an index and a UUID mean
    the same device shows on the node alone.
    """
    for number, entry in enumerate(resources):
        for other_number, other in enumerate(resources[:number]):
            if other.name != entry.name:
                continue
            pair = f"{_SLICING}.resources[{other_number}] and [{number}]"
            if entry.devices is None or other.devices is None:
                raise ConfigError(
                    f"{where}: {pair} both share {entry.name}, one of them all of its devices; "
                    "choose devices for each that the other does not have"
                )
            if not isinstance(entry.devices, int) and not isinstance(other.devices, int):
                both = [name for name in entry.devices if name in other.devices]
                if both:
                    raise ConfigError(
                        f"{where}: {pair} both share device {both[0]} of {entry.name}; name it in "
                        "one of them"
                    )


def _shared(where: str, name: str, value: object) -> SharedResource:
    entry = keys.mapping(where, name, value)
    keys.refuse_unknown(where, name, entry, keys.SHARED)
    resource, rename = full(entry.get("name")), full(entry.get("rename")) or None
    replicas = entry.get("replicas")
    if not is_resource(resource):
        raise refusal(f"{where}: {name}.name", entry.get("name"), RESOURCE)
    if rename is not None and not is_resource(rename):
        raise refusal(f"{where}: {name}.rename", entry.get("rename"), RESOURCE)
    if (
        not isinstance(replicas, int)
        or isinstance(replicas, bool)
        or not 1 <= replicas <= MOST_SHARES
    ):
        raise refusal(f"{where}: {name}.replicas", replicas, _REPLICAS)
    return SharedResource(
        str(resource),
        replicas,
        None if rename is None else str(rename),
        _chosen(where, f"{name}.devices", entry.get("devices")),
    )


def _chosen(where: str, name: str, value: object) -> int | tuple[str, ...] | None:
    match value:
        case None | "all":
            return None
        case bool():
            pass
        case int() if value > 0:
            return value
        case list() if value and all(
            isinstance(item, str | int) and not isinstance(item, bool) for item in value
        ):
            return tuple(str(item) for item in value)
    raise refusal(f"{where}: {name}", value, "all, a number, or a list of indices and UUIDs")
