"""The plan for a node: which GPUs change now, which wait for whom, and which are refused."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.partition.configuration import Resolved, Wanted
from plugin.core.partition.planner import InUse, plan_gpu
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import (
    MISFITS,
    Blocker,
    Outcome,
    Plan,
    RefusalCode,
    ResetNeeded,
)
from plugin.core.partition.usual import Offers


class Action(enum.StrEnum):
    """What happens to a GPU now."""

    NOTHING = "nothing"  # it is as wanted
    CHANGE = "change"
    WAIT = "wait"  # for its blockers
    EVICT = "evict"  # some of its blockers, and wait for them
    RESET = "reset"  # MIG mode waits for a reset
    HELD = "held"  # it could change, and another GPU keeps the node from it
    REFUSED = "refused"


class Decision(Struct, frozen=True):
    """``plan`` is what is done now, or later for ``wait``, ``evict`` and ``held``. ``back``: a GPU
    that is half-made gets what it had, because the configuration cannot change it now; ``text``
    says why where nothing else is in the way.
    """

    gpu: Gpu
    wanted: Wanted
    action: Action
    plan: Plan | None = None
    blockers: tuple[Blocker, ...] = ()
    code: RefusalCode | None = None
    text: str = ""
    back: bool = False

    @property
    def evictable(self) -> tuple[str, ...]:
        """Pods whose eviction frees what is in the way, by name."""
        pods = {each.name for at in self.blockers for each in at.holders if each.pod}
        return tuple(sorted(pods))


class NodePlan(Struct, frozen=True):
    """Decisions in the order of the GPUs; GPUs that the configuration does not name have none.
    ``unreadable`` are GPUs without a readable UUID that it may name, by index. ``mig_mode``: MIG
    mode may be switched.
    """

    name: str
    policy: Policy
    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    mig_mode: bool = True

    def of(self, *actions: Action) -> tuple[Decision, ...]:
        return tuple(each for each in self.decisions if each.action in actions)

    @property
    def applied(self) -> bool:
        """Nothing is left to do."""
        return len(self.of(Action.NOTHING)) == len(self.decisions) and not self.unreadable


def plan_node(
    inventory: Inventory,
    offers: Offers,
    wanted: Resolved,
    in_use: InUse,
    policy: Policy,
    half: Mapping[str, Wanted] = MappingProxyType({}),
    refused: Mapping[str, tuple[Blocker, ...]] = MappingProxyType({}),
    *,
    mig_mode: bool = True,
) -> NodePlan:
    """A configuration that does not suit one of its GPUs changes nothing on any: waiting would not
    help. A GPU that cannot be read is refused alone, except under ``refuse``.

    Without `mig_mode`, MIG mode is not switched.

    `half` is what half-made GPUs had. Those that this would leave as they are get it back.

    `refused` is what was in the way on GPUs when the configuration was refused; that holds.
    """

    def decide(gpu: Gpu, wanted: Wanted, policy: Policy) -> Decision:
        offered = offers.get(gpu.uuid, ())
        outcome = plan_gpu(gpu, offered, wanted, in_use, mig_mode=mig_mode)
        return _decided(gpu, wanted, outcome, policy)

    decisions = tuple(
        _refuse(decide(gpu, wanted.wanted[gpu.uuid], policy), refused.get(gpu.uuid, ()))
        for gpu in inventory.gpus
        if gpu.uuid in wanted.wanted
    )
    spoiling = {each.gpu.index for each in decisions if _spoils(each, policy)}
    spoiling |= {gpu.index for gpu in inventory.gpus if gpu.uuid in refused}
    if policy is Policy.REFUSE:
        spoiling |= wanted.unreadable.keys()
    if spoiling or refused:
        by_hand = {each.gpu.index for each in decisions if _is_by_hand(each)}
        ended = bool(refused or spoiling - by_hand)
        decisions = tuple(_held(each, sorted(spoiling), ended=ended) for each in decisions)
    if half:
        decisions = tuple(_none_left(inventory, decisions, half, decide))
    return NodePlan(wanted.name, policy, decisions, wanted.warnings, wanted.unreadable, mig_mode)


def _decided(gpu: Gpu, wanted: Wanted, outcome: Outcome, policy: Policy) -> Decision:
    if isinstance(outcome, ResetNeeded):
        return Decision(gpu, wanted, Action.RESET, text=f"GPU {gpu.index}: {outcome.text}")
    if isinstance(outcome, Plan):
        action = Action.CHANGE if outcome.steps else Action.NOTHING
        return Decision(gpu, wanted, action, outcome)
    decision = Decision(
        gpu, wanted, Action.REFUSED, outcome.after, outcome.blockers, outcome.code, outcome.text
    )
    if outcome.code is not RefusalCode.IN_USE:
        return decision
    if policy is Policy.REFUSE:
        return _refuse(decision, outcome.blockers)
    action = Action.CHANGE if policy is Policy.FORCE else Action.WAIT
    evicts = policy is Policy.EVICT and decision.evictable
    return replace(decision, action=Action.EVICT if evicts else action)


def _refuse(decision: Decision, in_the_way: tuple[Blocker, ...]) -> Decision:
    """Because of devices in use, if there are any in the way of what would be done."""
    if not in_the_way or decision.action is Action.NOTHING:
        return decision
    because = "; ".join(map(str, in_the_way))
    text = f"GPU {decision.gpu.index} stays as it is because of {because}"
    code = RefusalCode.IN_USE
    return replace(decision, action=Action.REFUSED, blockers=in_the_way, code=code, text=text)


def _none_left(
    inventory: Inventory,
    decisions: Iterable[Decision],
    half: Mapping[str, Wanted],
    decide: Callable[[Gpu, Wanted, Policy], Decision],
) -> Iterator[Decision]:
    """Decisions that leave no GPU half-made. Going back waits for whoever is in the way, whatever
    the policy.
    """
    known = {each.gpu.uuid: each for each in decisions}
    for gpu in inventory.gpus:
        decision = known.get(gpu.uuid)
        if gpu.uuid in half and (decision is None or _leaves(decision)):
            back = decide(gpu, half[gpu.uuid], Policy.WAIT)
            why = decision.text if decision is not None else ""
            yield replace(back, back=True, text=back.text or why)
        elif decision is not None:
            yield decision


def _leaves(decision: Decision) -> bool:
    """Whether the GPU stays as it is, although it could go back."""
    stays = decision.action not in {Action.NOTHING, Action.CHANGE, Action.RESET}
    return stays and decision.code not in {RefusalCode.UNREADABLE, RefusalCode.UNSETTLED}


def _spoils(decision: Decision, policy: Policy) -> bool:
    """Whether this GPU keeps every other one from changing."""
    if decision.code in MISFITS:
        return True
    return policy is Policy.REFUSE and decision.action in {Action.REFUSED, Action.RESET}


def _is_by_hand(decision: Decision) -> bool:
    """The administrator has to switch MIG mode, and nobody has yet."""
    return decision.action is Action.RESET and not decision.gpu.mig_pending


def _held(decision: Decision, spoiling: Iterable[int], *, ended: bool) -> Decision:
    """`ended`: switching MIG mode by hand would lead nowhere."""
    if decision.action in {Action.NOTHING, Action.REFUSED}:
        return decision
    if decision.action is Action.RESET and not (ended and _is_by_hand(decision)):
        return decision
    others = ", ".join(str(index) for index in spoiling if index != decision.gpu.index)
    cause = f"GPU {others}" if others else "a GPU that is not there"
    text = f"GPU {decision.gpu.index} stays as it is because of {cause}"
    return replace(decision, action=Action.HELD, text=text)
