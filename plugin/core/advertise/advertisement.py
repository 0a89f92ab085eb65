"""From an inventory and the settings to what kubelet is told, and what is left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plugin.core.inventory.model import Device, Gpu, Inventory, MigDevice
from plugin.core.inventory.profiles import GPU_RESOURCE, resource_name
from plugin.core.settings import MigStrategy, Settings, SharedResource, SingleResource

#: Between a device's UUID and the number of its replica, as NVIDIA's plugin writes it.
REPLICA_SEPARATOR = "::"


@dataclass(frozen=True, slots=True)
class Listed:
    """One id in a resource's list. ``reasons`` say why it must not be used; none means healthy."""

    id: str
    device: Device
    reasons: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a node offers.

    ``resources`` maps resource names to ids in inventory order; ``withheld`` maps UUIDs that are on
    the node but in no list to the reason; ``problems`` are sentences about the node as a whole.
    ``limits`` maps resources to the largest number of ids that one container may ask for.
    """

    resources: Mapping[str, tuple[Listed, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    withheld: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    _indices: dict[str, Mapping[str, Listed]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def index(self, resource: str) -> Mapping[str, Listed]:
        """Id → what is listed; made once, since kubelet asks for one id after another."""
        found = self._indices.get(resource)
        if found is None:
            found = self._indices[resource] = {
                item.id: item for item in self.resources.get(resource, ())
            }
        return found


def advertise(
    inventory: Inventory,
    settings: Settings,
    verdicts: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Advertisement:
    """Decide what to advertise. `verdicts` maps device UUIDs to reasons that hold them down."""
    grouped, withheld, problems = _STRATEGIES[settings.mig_strategy](inventory, settings)
    listed = {
        name: tuple(Listed(d.uuid, d, _reasons(d, settings, verdicts)) for d in devices)
        for name, devices in grouped.items()
    }
    shared, limits, sharing_problems = _share(listed, settings)
    return Advertisement(
        MappingProxyType(dict(sorted(shared.items()))),
        MappingProxyType(withheld),
        (*problems, *sharing_problems),
        MappingProxyType(limits),
    )


def _reasons(
    device: Device, settings: Settings, verdicts: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    reasons = [*verdicts.get(device.uuid, ())]
    if device.error:
        reasons.append(device.error)
    if settings.pass_device_specs:
        # Without device specs the container runtime makes the nodes itself, and ours may not show
        # them.
        reasons.extend(f"missing {path}" for path in device.missing)
    return tuple(reasons)


# ---- strategies

_Plan = tuple[dict[str, list[Device]], dict[str, str], list[str]]


def _none(inventory: Inventory, settings: Settings) -> _Plan:
    del settings
    plan = _Planner()
    for gpu in inventory.gpus:
        for device in gpu.mig_devices:
            plan.withheld[device.uuid] = "MIG devices are not advertised with --mig-strategy=none"
        reason = _why_not_whole(gpu)
        if reason is None and gpu.mig_enabled and not gpu.mig_devices:
            reason = "MIG mode on and no MIG devices, so CUDA finds nothing there"
        if reason is not None:
            plan.withhold(gpu, reason)
            continue
        plan.add(GPU_RESOURCE, gpu)
        if gpu.mig_enabled:
            plan.note(
                gpu,
                "MIG mode on, but advertised whole; --mig-strategy=mixed or single advertises "
                "MIG devices",
            )
    return plan.done()


def _mixed(inventory: Inventory, settings: Settings) -> _Plan:
    del settings
    plan = _Planner()
    for gpu in inventory.gpus:
        for device in gpu.mig_devices:
            if device.profile:
                plan.add(resource_name(device.profile), device)
            else:
                plan.withhold_mig(device, f"no readable profile: {device.error or 'no answer'}")
        if gpu.mig_devices:
            continue
        reason = _why_not_whole(gpu) or (
            "MIG mode on and no MIG devices" if gpu.mig_enabled else None
        )
        if reason is None:
            plan.add(GPU_RESOURCE, gpu)
        else:
            plan.withhold(gpu, reason)
    return plan.done()


def _single(inventory: Inventory, settings: Settings) -> _Plan:
    readable = [gpu for gpu in inventory.gpus if not gpu.error or gpu.mig_devices]
    if not any(gpu.mig_enabled or gpu.mig_devices for gpu in readable):
        # No MIG anywhere: as NVIDIA's plugin does, the node's GPUs are offered whole.
        return _none(inventory, settings)
    resources, withheld, problems = _mixed(inventory, settings)
    for unreadable in resources.pop(GPU_RESOURCE, ()):
        withheld[unreadable.uuid] = (
            unreadable.error or "whole GPUs are not advertised beside MIG devices"
        )
    violation = _single_violation(readable)
    if violation is not None:
        reason = (
            f"--mig-strategy=single: {violation}; nothing is advertised until that is "
            "mended (or use mixed)"
        )
        for device in inventory.devices():
            if isinstance(device, MigDevice) or not device.mig_devices:
                withheld[device.uuid] = reason
        return {}, withheld, [reason, *problems]
    if settings.single_resource is SingleResource.GPU:
        resources = (
            {GPU_RESOURCE: [d for devices in resources.values() for d in devices]}
            if resources
            else {}
        )
    return resources, withheld, problems


def _single_violation(gpus: list[Gpu]) -> str | None:
    """Why these GPUs break the rules of ``single``; unreadable data breaks nothing."""
    off = [gpu.path for gpu in gpus if not gpu.mig_enabled and not gpu.mig_devices]
    if off:
        return f"every GPU must have MIG mode on, but it is off on GPU {', '.join(off)}"
    where: dict[str, list[str]] = {}
    for gpu in gpus:
        for profile in {d.profile: None for d in gpu.mig_devices if d.profile}:
            where.setdefault(profile, []).append(gpu.path)
    if len(where) > 1:
        found = "; ".join(
            f"{profile} on GPU {', '.join(paths)}" for profile, paths in sorted(where.items())
        )
        return f"every MIG device must have one profile, but there are {found}"
    return None


_STRATEGIES = {MigStrategy.NONE: _none, MigStrategy.MIXED: _mixed, MigStrategy.SINGLE: _single}


def _why_not_whole(gpu: Gpu) -> str | None:
    if gpu.mig_pending:
        after = "on" if gpu.mig is not None and gpu.mig.pending else "off"
        return f"MIG mode pending ({after} after a GPU reset)"
    return None


class _Planner:
    """Collects what a strategy decides; what is the same for several GPUs is one problem,
    not many.
    """

    def __init__(self) -> None:
        self.withheld: dict[str, str] = {}
        self._resources: dict[str, list[Device]] = {}
        self._notes: dict[str, list[str]] = {}
        self._problems: list[str] = []

    def add(self, resource: str, device: Device) -> None:
        self._resources.setdefault(resource, []).append(device)

    def note(self, gpu: Gpu, what: str) -> None:
        self._notes.setdefault(what, []).append(gpu.path)

    def withhold(self, gpu: Gpu, reason: str) -> None:
        self.withheld[gpu.uuid] = f"GPU {gpu.path}: {reason}"
        self.note(gpu, reason)

    def withhold_mig(self, device: MigDevice, reason: str) -> None:
        self.withheld[device.uuid] = f"MIG device {device.path} ({device.uuid}): {reason}"
        self._problems.append(self.withheld[device.uuid])

    def done(self) -> _Plan:
        notes = [f"GPU {', '.join(paths)}: {what}" for what, paths in self._notes.items()]
        return self._resources, self.withheld, notes + self._problems


# ---- sharing


def _share(
    listed: dict[str, tuple[Listed, ...]], settings: Settings
) -> tuple[dict[str, tuple[Listed, ...]], dict[str, int], list[str]]:
    """Replace shared devices by their replicas; those that are not chosen stay under the plain
    name.
    """
    sharing = settings.sharing
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
            Listed(f"{item.id}{REPLICA_SEPARATOR}{n}", item.device, item.reasons)
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
    return {name: ids for name, ids in result.items() if ids}, limits, problems


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
