"""A plan for a node: each GPU before and after as its memory slices, and as a JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from plugin.commands.pictures import SLICE, STYLES
from plugin.core.inventory.model import Gpu, Placement
from plugin.core.partition.demand import device_name
from plugin.core.partition.node import Action, Decision, NodePlan
from plugin.core.partition.planner import InUse
from plugin.core.partition.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Plan,
    Seat,
    Step,
    SwitchMode,
)

LEGEND = (
    "- destroyed   + new   ~ changed inside   * in use   ! in use and in the way   "
    "( ) without compute instance"
)

_WHAT = {
    Action.NOTHING: "is as wanted",
    Action.CHANGE: "changes now",
    Action.WAIT: "waits",
    Action.EVICT: "evicts pods, then changes",
    Action.RESET: "waits for a reset",
    Action.HELD: "stays as it is",
    Action.REFUSED: "is refused",
}

#: Placement, sign and label of one GPU instance.
_Block = tuple[Placement, str, str]


def draw(decision: Decision, in_use: InUse) -> Iterator[Text]:
    """The GPU now and, where it changes, then; and the reason, where it does not."""
    gpu = decision.gpu
    yield Text(f"GPU {gpu.index}  {_WHAT[decision.action]}: {decision.wanted}")
    plan = decision.plan if decision.plan is not None and decision.plan.steps else None
    before = _before(decision, in_use)
    after = [] if plan is None else _after(plan.seats)
    # Wide enough that every label fits: a cut one would name another profile.
    width = max([SLICE, *(-(-(len(label) + 2) // at.size) for at, _, label in before + after)])
    yield _line("now", gpu, before, width, on=gpu.mig_enabled)
    if plan is not None:
        yield _line("then", gpu, after, width, on=plan.mig)
        yield Text(f"  {_summary(plan)}")
    if decision.text:
        yield Text(f"  {decision.text}")


def _summary(plan: Plan) -> str:
    created = sum(isinstance(step, CreateComputeInstance) for step in plan.steps)
    counted = f"devices: {len(plan.kept)} stay, {len(plan.leaving)} destroyed, {created} new"
    mode = next((step for step in plan.steps if isinstance(step, SwitchMode)), None)
    return counted if mode is None else f"{mode}; {counted}"


def _line(title: str, gpu: Gpu, blocks: Sequence[_Block], width: int, *, on: bool) -> Text:
    """`width` is that of one memory slice, with its right border."""
    line = Text(f"  {title:<4}  |")
    slices = gpu.memory_slices or 4
    if not blocks:
        line.append(f" MIG {'on, empty' if on else 'off'}".ljust(slices * width - 1) + "|")
        return line
    position = 0
    for at, sign, label in sorted(blocks):
        _gap(line, at.start - position, width)
        line.append(f"{sign}{label}".ljust(at.size * width - 1), style=STYLES[sign])
        line.append("|")
        position = at.end
    _gap(line, slices - position, width)
    return line


def _gap(line: Text, slices: int, width: int) -> None:
    if slices > 0:
        line.append("·" * (slices * width - 1), style="dim")
        line.append("|")


def _before(decision: Decision, in_use: InUse) -> list[_Block]:
    plan = decision.plan
    leaving = frozenset(plan.leaving) if plan else frozenset()
    staying = {seat.gi for seat in plan.seats} if plan else None
    blocks = []
    for instance in decision.gpu.instances or ():
        devices = [each for each in decision.gpu.mig_devices if each.gi == instance.id]
        used = [each.uuid for each in devices if in_use.get(each.uuid)]
        if leaving.intersection(used):
            sign = "!"
        elif staying is not None and instance.id not in staying:
            sign = "-"
        elif used:
            sign = "*"
        else:
            sign = "~" if leaving.intersection(each.uuid for each in devices) else " "
        names = [each.profile for each in devices]
        blocks.append((instance.placement, sign, _label(instance.profile, names)))
    return blocks


def _after(seats: Sequence[Seat]) -> list[_Block]:
    blocks = []
    for seat in seats:
        sign = "+" if seat.gi is None else "~" if seat.created else " "
        names = [device_name(seat.profile, slices) for slices in seat.compute]
        blocks.append((seat.placement, sign, _label(seat.profile, names)))
    return blocks


def _label(instance: str, devices: Sequence[str]) -> str:
    counted = sorted(Counter(devices).items())
    named = [f"{count}×{name or '?'}" if count > 1 else name or "?" for name, count in counted]
    return " ".join(named) or f"({instance or '?'})"


def document(plan: NodePlan, in_use: InUse) -> dict[str, Any]:
    """For ``--output json``."""
    return {
        "configuration": plan.name,
        "inUsePolicy": plan.policy.value,
        "applied": plan.applied,
        "warnings": list(plan.warnings),
        "unreadable": {str(index): why for index, why in plan.unreadable.items()},
        "gpus": [_gpu(each, in_use) for each in plan.decisions],
    }


def _gpu(decision: Decision, in_use: InUse) -> dict[str, Any]:
    gpu, plan = decision.gpu, decision.plan
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "action": decision.action.value,
        "reason": {"code": decision.code.value if decision.code else None, "text": decision.text},
        "wanted": {"mig": decision.wanted.mig, "devices": dict(decision.wanted.devices)}
        if decision.wanted.known
        else None,
        "blockers": [
            {"device": each.path, "uuid": each.uuid, "holders": [str(h) for h in each.holders]}
            for each in decision.blockers
        ],
        "before": _instances(gpu, in_use),
        "after": None if plan is None else [_seat(seat) for seat in plan.seats],
        "kept": [] if plan is None else list(plan.kept),
        "leaving": [] if plan is None else list(plan.leaving),
        "steps": [] if plan is None else [_step(step) for step in plan.steps],
    }


def _instances(gpu: Gpu, in_use: InUse) -> list[dict[str, Any]]:
    return [
        {
            "gi": instance.id,
            "profile": instance.profile,
            "placement": _placement(instance.placement),
            "devices": [
                {
                    "uuid": each.uuid,
                    "profile": each.profile,
                    "ci": each.ci,
                    "holders": [str(holder) for holder in in_use.get(each.uuid, ())],
                }
                for each in gpu.mig_devices
                if each.gi == instance.id
            ],
        }
        for instance in gpu.instances or ()
    ]


def _seat(seat: Seat) -> dict[str, Any]:
    return {
        "gi": seat.gi,
        "profile": seat.profile,
        "placement": _placement(seat.placement),
        "devices": [device_name(seat.profile, slices) for slices in seat.compute],
        "kept": list(seat.kept),
    }


def _placement(at: Placement) -> dict[str, int]:
    return {"start": at.start, "size": at.size}


def _step(step: Step) -> dict[str, Any]:
    match step:
        case SwitchMode():
            return {"step": "switch-mode", "on": step.on, "needsReset": step.needs_reset}
        case DestroyComputeInstance():
            return {
                "step": "destroy-compute-instance",
                "gi": step.gi,
                "ci": step.ci,
                "uuid": step.uuid,
            }
        case DestroyGpuInstance():
            return {
                "step": "destroy-gpu-instance",
                "gi": step.gi,
                "profile": step.profile,
                "placement": _placement(step.placement),
            }
        case CreateGpuInstance():
            return {
                "step": "create-gpu-instance",
                "profile": step.profile,
                "placement": _placement(step.placement),
            }
        case CreateComputeInstance():
            return {
                "step": "create-compute-instance",
                "gi": step.gi,
                "profile": step.profile,
                "placement": _placement(step.placement),
            }
