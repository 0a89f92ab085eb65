"""A state that the tests of its steps start from, and what they ask of it."""

from __future__ import annotations

from msgspec.structs import replace

from plugin.core import scans
from plugin.core import state as steps
from plugin.core.health.events import DriverEvent, EventKind, Probe
from plugin.core.inventory.model import Inventory
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import State, Step

from .builders import mig_gpu, node

MIXED = Settings(mig_strategy=MigStrategy.MIXED)
ONE = "nvidia.com/mig-1g.5gb"
FIRST, SECOND = mig_gpu(0, "1g.5gb", "1g.5gb"), mig_gpu(1, "1g.5gb")
LEFT, RIGHT = FIRST.mig_devices
OTHER = SECOND.mig_devices[0]
NODE = node(FIRST, SECOND)
WELL = [Probe(gpu.uuid, recovery_action=0) for gpu in NODE.gpus]

#: Of LEFT, RIGHT, the whole FIRST, and an instance that nobody has seen.
ON_LEFT = DriverEvent(EventKind.XID, FIRST.uuid, LEFT.gi, LEFT.ci, 95)
ON_RIGHT = replace(ON_LEFT, gi=RIGHT.gi)
ON_FIRST = DriverEvent(EventKind.XID, FIRST.uuid, data=79)
ON_NOTHING = replace(ON_LEFT, gi=99)
ON_OTHER = DriverEvent(EventKind.XID, SECOND.uuid, OTHER.gi, OTHER.ci, 95)
CHANGED = DriverEvent(EventKind.MIG_CONFIG, FIRST.uuid)

#: LEFT was destroyed and an instance made in its place, which got its ids.
ANEW = replace(LEFT, uuid="MIG-anew")
REMADE = node(replace(FIRST, mig_devices=(ANEW, RIGHT)), SECOND)


def scanned(state: State, scan: Inventory = NODE, now: float = 0.0) -> Step:
    return scans.scan_ended(scans.scan_begun(state), scan, now)


def running(settings: Settings = MIXED, scan: Inventory = NODE) -> State:
    """After the first scan and the first probes."""
    first = scanned(steps.initial(settings, 0.0), scan)
    return steps.probed(first.state, WELL, 0.0).state


def down(state: State) -> dict[str, tuple[str, ...]]:
    """Ids of unhealthy devices with the codes of their reasons."""
    return {
        item.id: tuple(str(reason.code) for reason in item.reasons)
        for listed in state.snapshot.advertisement.resources.values()
        for item in listed
        if not item.healthy
    }


def requests(step: Step) -> set[str]:
    return {name for name in ("rescan", "probe") if getattr(step, name)}
