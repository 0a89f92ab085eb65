"""From an inventory and the settings to what kubelet is told, and what is left out and why."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

from plugin.core.advertise.listed import Listed
from plugin.core.advertise.sharing import share
from plugin.core.advertise.strategies import plan
from plugin.core.advertise.withdrawal import NO_WITHDRAWAL, Withdrawal
from plugin.core.inventory.model import Device, Gpu, Inventory
from plugin.core.reasons import Code, Reason, Scope
from plugin.core.settings import Settings


class Offer(Struct, frozen=True):
    """A device's id in the list of a resource."""

    resource: str
    listed: Listed


class Advertisement(Struct, frozen=True, dict=True):  # for the cached properties
    """What a node offers.

    ``resources`` maps resource names to ids in inventory order; ``withheld`` maps UUIDs that are on
    the node but in no list to the reason; ``problems`` are sentences about the node as a whole.
    ``limits`` maps resources to the largest number of ids that one container may ask for.
    """

    resources: Mapping[str, tuple[Listed, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    withheld: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def violation(self) -> Reason | None:
        """How the node breaks the rules of its strategy, for which nothing at all is advertised."""
        return next((why for why in self.withheld.values() if why.scope is Scope.NODE), None)

    def index(self, resource: str) -> Mapping[str, Listed]:
        """Id → what is listed; made once, since kubelet asks for one id after another."""
        found = self._indices.get(resource)
        if found is None:
            found = self._indices[resource] = {
                item.id: item for item in self.resources.get(resource, ())
            }
        return found

    @functools.cached_property
    def _indices(self) -> dict[str, Mapping[str, Listed]]:
        return {}

    def offer(self, uuid: str) -> Offer | None:
        """How the device of this UUID is listed; of a shared one the first of its replicas."""
        return self._offers.get(uuid)

    @functools.cached_property
    def _offers(self) -> Mapping[str, Offer]:
        found: dict[str, Offer] = {}
        for resource, listed in self.resources.items():
            for item in listed:
                found.setdefault(item.device.uuid, Offer(resource, item))
        return found


def advertise(
    inventory: Inventory,
    settings: Settings,
    verdicts: Mapping[str, tuple[Reason, ...]] = MappingProxyType({}),
    withdrawal: Withdrawal = NO_WITHDRAWAL,
) -> Advertisement:
    """Decide what to advertise. `verdicts` maps device UUIDs to reasons that hold them down."""
    planned = plan(inventory, settings, withdrawal)
    listed = {
        name: tuple(Listed(d.uuid, d, _reasons(d, settings, verdicts)) for d in devices)
        for name, devices in planned.resources.items()
    }
    shared = share(listed, settings.sharing)
    return Advertisement(
        MappingProxyType(dict(sorted(shared.resources.items()))),
        MappingProxyType(dict(planned.withheld)),
        (*planned.problems, *shared.problems),
        MappingProxyType(dict(shared.limits)),
    )


def _reasons(
    device: Device, settings: Settings, verdicts: Mapping[str, tuple[Reason, ...]]
) -> tuple[Reason, ...]:
    reasons = [*verdicts.get(device.uuid, ())]
    # That a GPU hangs is a verdict about everything on it.
    if device.error and not (isinstance(device, Gpu) and device.hung):
        reasons.append(Reason(Code.UNREADABLE, device.error))
    if device.missing_device_nodes and (settings.pass_device_specs or settings.by_cdi):
        # Otherwise NVIDIA's runtime makes the nodes itself, and ours may not show them.
        reasons.extend(
            Reason(Code.MISSING_NODE, f"missing {path}") for path in device.missing_device_nodes
        )
    return tuple(reasons)
