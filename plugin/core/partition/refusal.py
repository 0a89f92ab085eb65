"""An order that was refused because devices in its way were in use.

That ends the order: it is not carried out later, when they are free, but when it is given again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.partition.node import Action, NodePlan
from plugin.core.partition.order import Order
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import Blocker, RefusalCode
from plugin.core.partition.use import UNKNOWN_HOLDER

#: By the UUID of each GPU that kept the order from being carried out: what was in the way.
InTheWay = Mapping[str, tuple[Blocker, ...]]

NOTHING: InTheWay = MappingProxyType({})


class Refused(Struct, frozen=True):
    """``order`` is the order's key."""

    order: str
    in_the_way: InTheWay


def in_force(
    refused: Refused | None, order: Order | None, policy: Policy, inventory: Inventory
) -> InTheWay:
    """What still refuses an order. Another policy does not, and nothing is left to refuse it for
    where a GPU certainly has none of the devices that were in the way, as after a reset or reboot.
    """
    if refused is None or order is None or refused.order != order.key:
        return NOTHING
    if policy is not Policy.REFUSE:
        return NOTHING
    return {
        uuid: blockers
        for uuid, blockers in refused.in_the_way.items()
        if _may_have(inventory.gpu(uuid), blockers)
    }


def of_plan(plan: NodePlan) -> InTheWay:
    """What refuses the order now. While it is not known who holds devices, nothing does."""
    if plan.policy is not Policy.REFUSE:
        return NOTHING
    found = {
        each.gpu.uuid: each.blockers
        for each in plan.of(Action.REFUSED)
        if each.code is RefusalCode.IN_USE
    }
    holders = {who for blockers in found.values() for each in blockers for who in each.holders}
    return NOTHING if UNKNOWN_HOLDER in holders else found


def _may_have(gpu: Gpu | None, blockers: tuple[Blocker, ...]) -> bool:
    if gpu is None or gpu.error or gpu.unreadable or gpu.uncounted or gpu.mig_unknown:
        return True
    there = {gpu.uuid, *(device.uuid for device in gpu.mig_devices)}
    return any(each.uuid in there for each in blockers)
