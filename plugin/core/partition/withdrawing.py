"""What no pod may get while a node is partitioned: before, during and after a change."""

from __future__ import annotations

from collections.abc import Container, Iterable

from plugin.core.advertise.withdrawal import Withdrawal
from plugin.core.partition.node import Action, Decision, NodePlan
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import Plan, SwitchMode
from plugin.core.partition.tracks import INTERRUPTED, Run
from plugin.core.reasons import Code as ReasonCode
from plugin.core.reasons import Reason


def leaving(decision: Decision) -> frozenset[str]:
    """UUIDs of what a pod could hold and will be no more."""
    plan = decision.plan
    if plan is None:
        return frozenset()
    whole = not decision.gpu.mig_enabled and switches(plan)
    return frozenset(plan.leaving) | (frozenset({decision.gpu.uuid}) if whole else frozenset())


def switches(plan: Plan) -> bool:
    return any(isinstance(step, SwitchMode) for step in plan.steps)


def withdrawal(run: Run, plan: NodePlan, done: Container[str] = ()) -> Withdrawal:
    """Between the changes: what will be destroyed, now or when it is free; and what was made and is
    not complete. The plan does not count for the GPUs in `done`.
    """
    out: dict[str, Reason] = {}
    changing: dict[str, Reason] = {}
    for each in plan.decisions:
        if each.gpu.uuid in done:
            continue
        if each.action in {Action.CHANGE, Action.WAIT, Action.EVICT}:
            reason = _reason(f"it makes room for {plan.name}")
            out.update(dict.fromkeys(sorted(leaving(each)), reason))
        elif each.action is Action.RESET:
            changing[each.gpu.uuid] = _reason(each.text)
    staying: set[str] = set()
    for uuid, before in run.half.items():
        track = run.tracks.get(uuid)
        changing[uuid] = _reason(track.trouble.text if track is not None else INTERRUPTED)
        staying |= before.devices - out.keys()
    return Withdrawal(out, changing, frozenset(staying))


def unchanging(run: Run) -> Withdrawal:
    """While nothing can be changed, nothing has to leave service: out of it is only what was made
    and is not complete.
    """
    return withdrawal(run, NodePlan("", Policy.WAIT, ()))


def meanwhile(
    run: Run, plan: NodePlan, going: Iterable[Decision], done: Container[str]
) -> Withdrawal:
    """While the GPUs in `going` are changed: nothing of them but what was in service and stays."""
    before = withdrawal(run, plan, done)
    changing, staying = dict(before.changing), set(before.staying)
    for each in going:
        uuid = each.gpu.uuid
        changing[uuid] = _reason(f"{plan.name} is being applied")
        if each.plan is not None and uuid not in run.half:
            staying.update(each.plan.kept)
    return Withdrawal(before.leaving, changing, frozenset(staying))


def _reason(text: str) -> Reason:
    return Reason(ReasonCode.PARTITIONING, text)
