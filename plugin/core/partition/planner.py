"""The plan for one GPU: from its present instances to the wanted devices, or what blocks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Gpu, MigDevice
from plugin.core.inventory.profiles import Profile
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.demand import demands, device_name, refused
from plugin.core.partition.layout import PresentCompute, PresentInstance, arrange
from plugin.core.partition.steps import (
    Blocker,
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Occupant,
    Outcome,
    Plan,
    Refusal,
    RefusalCode,
    ResetNeeded,
    Seat,
    Step,
    SwitchMode,
)

#: Who uses which device, by the UUID of the MIG device or GPU.
InUse = Mapping[str, tuple[Occupant, ...]]

_UNLISTED = "which GPU instances there are is not known: that takes the right to monitor them"

#: From this compute capability on (Hopper), a switch of MIG mode needs no GPU reset.
_SWITCHES_AT_ONCE = (9, 0)


def plan_gpu(
    gpu: Gpu,
    offers: Sequence[ProfileOffer],
    wanted: Wanted,
    in_use: InUse,
    *,
    mig_mode: bool = True,
) -> Outcome:
    """Pure and deterministic. No step of a plan touches a device in use, nor without `mig_mode` the
    MIG mode.

    It destroys before it creates, and does nothing to an instance that stays. A GPU that does not
    answer is as it was last read: it is as wanted or not, but nothing can be done to it.
    """
    refusal = _unplannable(gpu, offers, wanted)
    if refusal is None:
        outcome = _plan(gpu, offers, wanted, in_use)
        return outcome if mig_mode else _by_hand(gpu, wanted, outcome)
    was_read = gpu.mig is not None and gpu.instances is not None and not gpu.unread()
    comparable = gpu.hung and was_read and wanted.known
    outcome = _plan(gpu, offers, wanted, in_use) if comparable else refusal
    return outcome if isinstance(outcome, Plan) and not outcome.steps else refusal


def _by_hand(gpu: Gpu, wanted: Wanted, outcome: Outcome) -> Outcome:
    """Where MIG mode would be switched, what the administrator has to do instead."""
    plan = outcome.after if isinstance(outcome, Refusal) else outcome
    steps = plan.steps if isinstance(plan, Plan) else ()
    switch = next((step for step in steps if isinstance(step, SwitchMode)), None)
    if switch is None:
        return outcome
    blockers = outcome.blockers if isinstance(outcome, Refusal) else ()
    now = f" (in use now: {'; '.join(map(str, blockers))})" if blockers else ""
    run = f"while nothing uses the GPU{now}, run nvidia-smi -i {gpu.index} -mig {int(switch.on)}"
    if switch.needs_reset:
        run += f", then nvidia-smi -i {gpu.index} --gpu-reset, or reboot the node"
    return ResetNeeded(wanted.mig, run)


def _plan(gpu: Gpu, offers: Sequence[ProfileOffer], wanted: Wanted, in_use: InUse) -> Outcome:
    if gpu.mig is None:
        return Plan(mig=False)
    needed = demands(gpu, offers, wanted) if wanted.mig else ()
    if isinstance(needed, Refusal):
        return needed
    if gpu.mig_pending and gpu.mig.pending == wanted.mig:
        return ResetNeeded(wanted.mig)
    # An order to switch that waits for a reset is taken back.
    switches = gpu.mig_pending or gpu.mig.current != wanted.mig
    present = _present(gpu, in_use) if gpu.mig_enabled else ()
    seats = arrange(needed, present if wanted.mig else (), offers)
    if seats is None:
        return refused(gpu, f"{wanted} cannot lie side by side")
    plan = _steps(gpu, wanted, present, seats, offers, switches=switches)
    return _unless_blocked(gpu, plan, in_use, switches=switches)


def _unplannable(gpu: Gpu, offers: Sequence[ProfileOffer], wanted: Wanted) -> Refusal | None:
    """Why nobody can know what is on the GPU, or that it has no MIG."""
    unknown = gpu.error or gpu.mig_unknown
    if gpu.hung:
        unknown = "a call of the driver about it has not returned"
    elif unknown is None and (not wanted.known or (wanted.mig and gpu.mig and not offers)):
        unknown = "the driver does not say which GPU instance profiles it has"
    elif unknown is None and gpu.mig_enabled:
        unlisted = _UNLISTED if gpu.instances is None else None
        unknown = gpu.uncounted or next(iter(gpu.unreadable.values()), unlisted)
    if unknown is not None:
        return refused(gpu, str(unknown), RefusalCode.UNREADABLE)
    stray = _stray(gpu) if gpu.mig_enabled else None
    if stray is not None:
        code = RefusalCode.UNSETTLED if stray.unseen else RefusalCode.UNREADABLE
        where = f"GPU instance {stray.gi}, which the driver does not list"
        return refused(gpu, f"{stray.uuid} is in {where}", code)
    if wanted.mig and gpu.mig is None:
        return refused(gpu, "it has no MIG", RefusalCode.NO_MIG)
    return None


def _stray(gpu: Gpu) -> MigDevice | None:
    """A device in a GPU instance that the driver does not list."""
    known = {each.id for each in gpu.instances or ()}
    strays = (device for device in gpu.mig_devices if device.gi not in known)
    # What the next scan does not settle counts first.
    return min(strays, key=lambda device: device.unseen, default=None)


def _present(gpu: Gpu, in_use: InUse) -> tuple[PresentInstance, ...]:
    compute: dict[int, list[PresentCompute]] = {}
    for device in sorted(gpu.mig_devices, key=lambda device: device.order):
        used = bool(in_use.get(device.uuid))
        compute.setdefault(device.gi, []).append(
            PresentCompute(device.ci, device.uuid, _slices(device), device.ci_start, used)
        )
    return tuple(
        PresentInstance(each.id, each.profile, each.placement, tuple(compute.get(each.id, ())))
        for each in sorted(gpu.instances or (), key=lambda each: each.id)
    )


def _slices(device: MigDevice) -> int:
    if device.ci_slices:
        return device.ci_slices
    parsed = Profile.parse(device.profile)
    return 0 if parsed is None else parsed.ci_slices


def _steps(
    gpu: Gpu,
    wanted: Wanted,
    present: Sequence[PresentInstance],
    seats: tuple[Seat, ...],
    offers: Sequence[ProfileOffer],
    *,
    switches: bool,
) -> Plan:
    kept = frozenset(chain.from_iterable(seat.kept for seat in seats))
    staying = {seat.gi for seat in seats}
    leaving = [
        (instance, each)
        for instance in present
        for each in instance.compute
        if each.uuid not in kept
    ]
    steps: list[Step] = [
        DestroyComputeInstance(instance.gi, each.ci, each.uuid) for instance, each in leaving
    ]
    steps += [
        DestroyGpuInstance(instance.gi, instance.profile, instance.placement)
        for instance in present
        if instance.gi not in staying
    ]
    if switches:
        needs_reset = (gpu.compute_capability or (0, 0)) < _SWITCHES_AT_ONCE
        takes_back = gpu.mig is not None and gpu.mig.current == wanted.mig
        steps.append(SwitchMode(wanted.mig, needs_reset and not takes_back))
    by_name = {offer.name: offer for offer in offers}
    for seat in seats:
        offer = by_name[seat.profile]
        if seat.gi is None:
            steps.append(CreateGpuInstance(seat.profile, offer.profile_id, seat.placement))
        profiles = dict(offer.compute_profiles)
        steps += [
            CreateComputeInstance(
                device_name(seat.profile, slices),
                profiles[slices],
                slices,
                seat.placement,
                seat.gi,
            )
            for slices in seat.created
        ]
    return Plan(
        tuple(steps),
        wanted.mig,
        seats,
        tuple(d.uuid for d in gpu.mig_devices if d.uuid in kept),
        tuple(each.uuid for _, each in leaving),
    )


def _unless_blocked(gpu: Gpu, plan: Plan, in_use: InUse, *, switches: bool) -> Plan | Refusal:
    """The plan, unless a device is in use that it destroys; for a switch of MIG mode, any on the
    GPU.
    """
    leaving = frozenset(plan.leaving)
    devices = [device for device in gpu.mig_devices if switches or device.uuid in leaving]
    blockers = tuple(
        Blocker(device.uuid, device.path, in_use[device.uuid])
        for device in (*((gpu,) if switches else ()), *devices)
        if in_use.get(device.uuid)
    )
    if not blockers:
        return plan
    waits = "; ".join(map(str, blockers))
    return Refusal(RefusalCode.IN_USE, f"GPU {gpu.index} waits for {waits}", blockers, plan)


def devices_of(gpu: Gpu) -> Counter[str]:
    """The MIG devices that a GPU has, by profile."""
    return Counter(device.profile for device in gpu.mig_devices)
