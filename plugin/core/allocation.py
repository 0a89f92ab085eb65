"""Allocate: a pure function of the requested ids and the snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct, field

from plugin.core.advertise.advertisement import Advertisement
from plugin.core.cdi.names import annotation, qualified
from plugin.core.dev_root import host_dev_root
from plugin.core.inventory.model import Device
from plugin.core.reasons import texts
from plugin.core.settings import DeviceIdStrategy, DeviceListStrategy
from plugin.core.state import Snapshot
from plugin.errors import DeviceUnavailable, InvalidRequest, UnknownDevice

#: NVIDIA's container runtime reads a device list given as mounts from this directory.
VOLUME_MOUNTS_ROOT = "/var/run/nvidia-container-devices"

#: As many as a node lists at most, see ``MOST_SHARES``.
MOST_IDS = 65_536
#: Ids have at most 63 characters; messages shorten anything longer.
MOST_ID_CHARACTERS = 64


class Mount(Struct, frozen=True):
    container_path: str
    host_path: str
    read_only: bool = True


class DeviceSpec(Struct, frozen=True):
    container_path: str
    host_path: str
    permissions: str = "rw"


class ContainerAllocation(Struct, frozen=True):
    devices: tuple[Device, ...]
    envs: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    device_specs: tuple[DeviceSpec, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def allocate(
    resource: str, container_requests: Iterable[Sequence[str]], snapshot: Snapshot
) -> tuple[ContainerAllocation, ...]:
    """Answer kubelet's Allocate. Stateless: the same request always gets the same answer.

    Raises :class:`InvalidRequest`, :class:`UnknownDevice` or :class:`DeviceUnavailable`, naming the
    id.
    """
    requests = [list(ids) for ids in container_requests]
    if (count := sum(map(len, requests))) > MOST_IDS:
        raise InvalidRequest(
            f"allocating {resource}: {count} ids were asked for, and a request may have {MOST_IDS}"
        )
    return tuple(
        _container(_resolve(resource, ids, snapshot.advertisement), snapshot) for ids in requests
    )


def shortened(name: str) -> str:
    """An id from outside, shortened for a message."""
    if len(name) <= MOST_ID_CHARACTERS:
        return name
    return f"{name[:MOST_ID_CHARACTERS]}… ({len(name)} characters)"


def _resolve(resource: str, ids: list[str], advertisement: Advertisement) -> list[Device]:
    if not ids:
        raise InvalidRequest(
            f"allocating {resource}: a container asked for no device ids", "ask for at least one"
        )
    if len(set(ids)) < len(ids):
        repeated = min(name for name, count in Counter(ids).items() if count > 1)
        raise InvalidRequest(
            f"allocating {resource}: id {shortened(repeated)} is named more than once"
        )
    limit = advertisement.limits.get(resource)
    if limit is not None and len(ids) > limit:
        raise InvalidRequest(
            f"allocating {resource}: {len(ids)} were asked for and the maximum is {limit}, because "
            "sharing.timeSlicing.failRequestsGreaterThanOne is set: more shares give no more of "
            "a GPU"
        )
    devices: dict[str, Device] = {}
    by_id = advertisement.index(resource)
    for name in ids:
        item = by_id.get(name)
        if item is None:
            raise _absent(resource, name, advertisement)
        if not item.healthy:
            raise DeviceUnavailable(
                f"allocating {resource}: device {name} is unhealthy: {texts(item.reasons)}"
            )
        devices[item.device.uuid] = item.device
    return sorted(devices.values(), key=lambda device: device.order)


def _absent(
    resource: str, name: str, advertisement: Advertisement
) -> UnknownDevice | DeviceUnavailable:
    reason = advertisement.withheld.get(name)
    if reason is not None:
        return DeviceUnavailable(
            f"allocating {resource}: device {name} is withdrawn: {reason.text}"
        )
    for other in advertisement.resources:
        if name in advertisement.index(other):
            return DeviceUnavailable(
                f"allocating {resource}: device {name} is now advertised as {other}"
            )
    return UnknownDevice(
        f"allocating {resource}: there is no device {shortened(name)} on this node",
        "it may have been destroyed by a re-partition, `mig-device-plugin devices` shows what "
        "exists",
    )


def _container(devices: list[Device], snapshot: Snapshot) -> ContainerAllocation:
    settings = snapshot.settings
    lists = settings.device_list_strategy
    by_index = settings.device_id_strategy is DeviceIdStrategy.INDEX
    names = [device.path if by_index else device.uuid for device in devices]
    envs: dict[str, str] = {}
    mounts: list[Mount] = []
    if DeviceListStrategy.ENVVAR in lists:
        envs["NVIDIA_VISIBLE_DEVICES"] = ",".join(names)
    if DeviceListStrategy.VOLUME_MOUNTS in lists:
        # With this value the runtime reads the list from the mounts, so it overrides envvar.
        envs["NVIDIA_VISIBLE_DEVICES"] = VOLUME_MOUNTS_ROOT
        mounts = [Mount(f"{VOLUME_MOUNTS_ROOT}/{name}", "/dev/null") for name in names]
    if settings.cuda_visible_devices:
        # Always UUIDs: CUDA counts indices inside the container, not on the node.
        envs["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid for device in devices)
    specs: tuple[DeviceSpec, ...] = ()
    # What follows is for NVIDIA's runtime; the CDI specification has the nodes itself.
    if not all(strategy.by_cdi for strategy in lists):
        for enabled, name in (
            (settings.gdrcopy_enabled, "NVIDIA_GDRCOPY"),
            (settings.gds_enabled, "NVIDIA_GDS"),
            (settings.mofed_enabled, "NVIDIA_MOFED"),
        ):
            if enabled:
                envs[name] = "enabled"
        if settings.pass_device_specs:
            root = host_dev_root(snapshot.inventory, settings).rstrip("/")
            specs = tuple(DeviceSpec(path, root + path) for path in _nodes(devices, snapshot))
    return ContainerAllocation(
        tuple(devices),
        envs,
        tuple(mounts),
        specs,
        tuple(qualified(device, settings) for device in devices)
        if DeviceListStrategy.CDI_CRI in lists
        else (),
        dict((annotation(devices, settings),))
        if DeviceListStrategy.CDI_ANNOTATIONS in lists
        else {},
    )


def _nodes(devices: Iterable[Device], snapshot: Snapshot) -> list[str]:
    """Device nodes without duplicates: control nodes first, then in order of the devices."""
    nodes = dict.fromkeys(snapshot.inventory.control_nodes)
    for device in devices:
        nodes.update(dict.fromkeys(device.device_nodes))
        # Under `none` a whole GPU may have MIG devices, and needs their nodes as well. A missing
        # node is left out, because the container would not start.
        for part in device.parts:
            nodes.update(
                dict.fromkeys(
                    node for node in part.device_nodes if node not in part.missing_device_nodes
                )
            )
    return list(nodes)
