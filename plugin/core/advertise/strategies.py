"""Which resource each device belongs to under each strategy, and which are in no list and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.advertise.naming import named
from plugin.core.advertise.withdrawal import NO_WITHDRAWAL, Withdrawal
from plugin.core.inventory.model import Device, Gpu, GpuInstance, Inventory, MigDevice
from plugin.core.inventory.profiles import GPU_RESOURCE, resource_name
from plugin.core.reasons import Code, Reason, Scope
from plugin.core.settings import MigStrategy, Settings, SingleResource


class Plan(Struct, frozen=True):
    """What a strategy decides: devices by resource, UUIDs that are in no list with the reason, and
    sentences about the node.
    """

    resources: Mapping[str, Sequence[Device]]
    withheld: Mapping[str, Reason]
    problems: tuple[str, ...]


def plan(inventory: Inventory, settings: Settings, withdrawal: Withdrawal = NO_WITHDRAWAL) -> Plan:
    """Which resource each device belongs to under the strategy of `settings`, and its naming."""
    planned = _STRATEGIES[settings.mig_strategy](inventory, settings, withdrawal)
    return replace(planned, resources=named(planned.resources, settings.naming, inventory))


def _none(inventory: Inventory, settings: Settings, withdrawal: Withdrawal) -> Plan:
    del settings
    planner = _Planner()
    for gpu in inventory.gpus:
        if planner.withhold_uncertain(gpu):
            continue
        if gpu.uuid in withdrawal.changing:
            planner.withhold_changing(gpu, withdrawal)
            continue
        for device in gpu.mig_devices:
            planner.withheld[device.uuid] = Reason(
                Code.WITHHELD, "MIG devices are not advertised with --mig-strategy=none"
            )
        reason = _why_not_whole(gpu)
        if reason is None and gpu.mig_enabled and not gpu.mig_devices:
            reason = "MIG mode on and no MIG devices, so CUDA finds nothing there"
        if reason is not None:
            planner.withhold(gpu, reason)
            continue
        planner.add(GPU_RESOURCE, gpu)
        if gpu.mig_enabled:
            planner.note(
                gpu,
                "MIG mode on, but advertised whole; --mig-strategy=mixed or single advertises "
                "MIG devices",
            )
    return planner.done()


def _mixed(inventory: Inventory, settings: Settings, withdrawal: Withdrawal) -> Plan:
    del settings
    planner = _Planner()
    for gpu in inventory.gpus:
        if planner.withhold_uncertain(gpu):
            continue
        if gpu.uuid in withdrawal.changing:
            for device in planner.withhold_changing(gpu, withdrawal):
                planner.add(resource_name(device.profile), device)
            continue
        for device in gpu.mig_devices:
            if device.profile:
                planner.add(resource_name(device.profile), device)
            else:
                planner.withhold_mig(device, f"no readable profile: {device.error or 'no answer'}")
        for instance in gpu.empty_instances():
            planner.problem(_empty(gpu, instance))
        if gpu.mig_devices:
            continue
        reason = _why_not_whole(gpu) or (
            "MIG mode on and no MIG devices" if gpu.mig_enabled else None
        )
        if reason is None:
            planner.add(GPU_RESOURCE, gpu)
        else:
            planner.withhold(gpu, reason)
    return planner.done()


def _single(inventory: Inventory, settings: Settings, withdrawal: Withdrawal) -> Plan:
    # A GPU of which it is not known whether it has MIG mode on breaks no rule, nor does one that
    # is being changed.
    readable = [
        gpu
        for gpu in inventory.gpus
        if gpu.mig_certain
        and (not gpu.error or gpu.mig_devices)
        and gpu.uuid not in withdrawal.changing
    ]
    changing = any(gpu.uuid in withdrawal.changing for gpu in inventory.gpus)
    if not changing and not any(gpu.mig_enabled or gpu.mig_devices for gpu in readable):
        # No MIG anywhere: as NVIDIA's plugin does, the node's GPUs are offered whole.
        return _none(inventory, settings, withdrawal)
    mixed = _mixed(inventory, settings, withdrawal)
    resources = {name: devices for name, devices in mixed.resources.items() if name != GPU_RESOURCE}
    withheld = dict(mixed.withheld)
    for gpu in mixed.resources.get(GPU_RESOURCE, ()):
        text = gpu.error or "whole GPUs are not advertised beside MIG devices"
        withheld[gpu.uuid] = Reason(Code.WITHHELD, text)
    violation = _single_violation(readable)
    if violation is not None:
        text = (
            f"--mig-strategy=single: {violation}; nothing is advertised until that is "
            "mended (or use mixed)"
        )
        for device in inventory.devices():
            if not device.parts:
                withheld[device.uuid] = Reason(Code.WITHHELD, text, scope=Scope.NODE)
        return Plan({}, withheld, (text, *mixed.problems))
    if settings.single_resource is SingleResource.GPU:
        devices = [device for devices in resources.values() for device in devices]
        resources = {GPU_RESOURCE: devices} if devices else {}
    return Plan(resources, withheld, mixed.problems)


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


def _empty(gpu: Gpu, instance: GpuInstance) -> str:
    name = f" ({instance.profile})" if instance.profile else ""
    return (
        f"GPU {gpu.path}: GPU instance {instance.id}{name} has no compute instance, so no "
        f"container can use it; nvidia-smi mig -i {gpu.path} -gi {instance.id} -cci makes one"
    )


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
        self.withheld: dict[str, Reason] = {}
        self._resources: dict[str, list[Device]] = {}
        self._notes: dict[str, list[str]] = {}
        self._problems: list[str] = []

    def add(self, resource: str, device: Device) -> None:
        self._resources.setdefault(resource, []).append(device)

    def note(self, gpu: Gpu, what: str) -> None:
        self._notes.setdefault(what, []).append(gpu.path)

    def withhold(self, gpu: Gpu, reason: str) -> None:
        self.withheld[gpu.uuid] = Reason(Code.WITHHELD, f"GPU {gpu.path}: {reason}")
        self.note(gpu, reason)

    def withhold_uncertain(self, gpu: Gpu) -> bool:
        """Withhold a GPU, and all on it, of which it was never known whether MIG mode is on."""
        if gpu.mig_certain:
            return False
        reason = f"it is not known whether MIG mode is on: {gpu.mig_unknown}"
        self.withhold(gpu, reason)
        for device in gpu.mig_devices:
            self.withheld[device.uuid] = self.withheld[gpu.uuid]
        return True

    def withhold_changing(self, gpu: Gpu, withdrawal: Withdrawal) -> list[MigDevice]:
        """Withhold a GPU that is being changed; returns the MIG devices that stay in service."""
        staying: list[MigDevice] = []
        devices: tuple[Device, ...] = (gpu, *gpu.mig_devices)
        for device in devices:
            hidden = withdrawal.hides(device)
            if hidden is not None:
                self.withheld[device.uuid] = hidden
            elif isinstance(device, MigDevice) and device.profile:
                staying.append(device)
        return staying

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def withhold_mig(self, device: MigDevice, reason: str) -> None:
        text = f"MIG device {device.path} ({device.uuid}): {reason}"
        self.withheld[device.uuid] = Reason(Code.WITHHELD, text)
        self._problems.append(text)

    def done(self) -> Plan:
        notes = [f"GPU {', '.join(paths)}: {what}" for what, paths in self._notes.items()]
        return Plan(self._resources, self.withheld, (*notes, *self._problems))
