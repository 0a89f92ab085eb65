"""Nodes as the status page may have to show them, made of the simulated cards and the daemon's own
decisions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec.structs import replace

from plugin.core.advertise.advertisement import advertise
from plugin.core.health import ledger as ledgers
from plugin.core.health.events import DriverEvent, EventKind
from plugin.core.health.faults import judge
from plugin.core.health.ledger import EMPTY, Escalation, Ledger
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Activity, DeviceSample, Samples
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.order import Source
from plugin.core.partition.progress import GpuProgress, GpuState, Progress, State
from plugin.core.partition.steps import Blocker, Occupant
from plugin.core.partition.trouble import Code as TroubleCode
from plugin.core.partition.trouble import Trouble
from plugin.core.reasons import Code, Reason, Scope
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import Snapshot
from plugin.core.view import Holder, ResourceStatus, View
from plugin.sim.hardware.engine import parse_node
from tests.simulated import scan

#: A moment in 2026.
NOW = 1_780_000_000.0


@dataclass(frozen=True, slots=True)
class Node:
    """What a scene begins with."""

    inventory: Inventory
    settings: Settings
    ledger: Ledger = field(default_factory=lambda: EMPTY)

    def xid(self, number: int, gpu: int, gi: int | None = None) -> Node:
        """The node after a fault of a GPU, or of a GPU instance and its first compute instance."""
        event = DriverEvent(
            EventKind.XID,
            self.inventory.gpus[gpu].uuid,
            data=number,
            gi=gi,
            ci=None if gi is None else 0,
        )
        fault = judge(event, self.inventory, self.settings)
        assert fault is not None
        ledger = ledgers.record(self.ledger, fault, self.inventory, NOW - 190, Escalation(0, 0))
        return dataclasses.replace(self, ledger=ledger)

    def cordon(self, uuid: str) -> Node:
        return dataclasses.replace(
            self, ledger=ledgers.cordon(self.ledger, uuid, self.inventory, NOW - 4000)
        )

    def view(
        self,
        holders: Mapping[str, tuple[Holder, ...]] | None = None,
        samples: Samples | None = None,
    ) -> View:
        verdicts = ledgers.verdicts(self.ledger, self.inventory)
        snapshot = Snapshot(
            12,
            self.settings,
            self.inventory,
            advertise(self.inventory, self.settings, verdicts),
            ledger=self.ledger,
        )
        return View(
            now=NOW,
            started=NOW - 93_000,
            snapshot=snapshot,
            changed=NOW - 200,
            resources=tuple(
                ResourceStatus(
                    name, registered=True, registrations=1, stream_since=NOW - 92_990, lists_sent=3
                )
                for name in snapshot.advertisement.resources
            ),
            holders=holders,
            samples=samples,
        )


def node(text: str, strategy: MigStrategy = MigStrategy.MIXED) -> Node:
    return Node(scan(parse_node(text)), Settings(mig_strategy=strategy))


def held(inventory: Inventory, *, every: int = 1) -> Mapping[str, tuple[Holder, ...]]:
    """Pods on most MIG devices: all but each `every`-th when that is more than one."""
    names = ("train-7b", "embed-0", "notebook-ada", "triton-llm", "eval-nightly", "whisper-2")
    found = {}
    for gpu in inventory.gpus:
        for device in gpu.mig_devices:
            if every == 1 or (gpu.index + device.index) % every:
                name = names[(3 * gpu.index + device.index) % len(names)]
                space = "research" if name.startswith(("train", "notebook")) else "serving"
                found[device.uuid] = (Holder(space, f"{name}-{gpu.index}{device.index}", "main"),)
    return MappingProxyType(found)


def samples(inventory: Inventory) -> Samples:
    """Half of everything is used."""
    devices = {
        device.uuid: DeviceSample(
            memory_total=device.memory_mib * 2**20,
            memory_used=device.memory_mib * 2**19,
            processes=1,
            activity=Activity(sm_active=0.5, tensor_active=0.25),
        )
        for gpu in inventory.gpus
        for device in gpu.mig_devices
    }
    return Samples(NOW - 3, devices=MappingProxyType(devices))


def slices() -> View:
    """56 devices, a few of them in use."""
    made = node("p4d.24xlarge:all-1g.5gb")
    some = {uuid: who for n, (uuid, who) in enumerate(held(made.inventory).items()) if n % 3 == 0}
    return made.view(some)


def balanced() -> View:
    made = node("p4d.24xlarge:all-balanced")
    return made.view(held(made.inventory, every=4), samples(made.inventory))


def faulted() -> View:
    """One instance, and on another GPU all of them."""
    made = node(
        "p5.48xlarge:0-1=balanced;2=1g.10gb*7;3=off;4=3g.40gb,2g.20gb;5=7g.80gb;6-7=balanced"
    )
    victim = made.inventory.gpus[0].mig_devices[2]
    return (
        made.xid(94, 0, victim.gi)
        .xid(48, 0, victim.gi)
        .xid(79, 2)
        .view(held(made.inventory, every=5))
    )


def cordoned() -> View:
    """A GPU, and one device of another."""
    made = node("p4d.24xlarge:all-balanced")
    first, second = made.inventory.gpus[:2]
    return (
        made.cordon(first.uuid)
        .cordon(second.mig_devices[1].uuid)
        .view(held(made.inventory, every=2))
    )


def no_gpus() -> View:
    made = Node(Inventory(), Settings(mig_strategy=MigStrategy.MIXED))
    view = made.view({})
    error = "no NVIDIA driver: libnvidia-ml.so.1 was not found below /driver-root or by the loader"
    reason = Reason(Code.DRIVER_UNAVAILABLE, error, scope=Scope.NODE)
    return replace(view, snapshot=replace(view.snapshot, driver_error=reason))


def invalid_single() -> View:
    return node("p4d.24xlarge:0-5=1g.5gb*7;6=2g.10gb*3;7=off", MigStrategy.SINGLE).view({})


def shared_instances() -> View:
    """Several compute instances in one GPU instance, a GPU without MIG,
    and cards with four slices.
    """
    made = node("2xh100-80gb+1xa30-24gb+1xt4-16gb:0=1c.3g.40gb*3,1g.10gb+me;1=on;2=1g.6gb*2;3=off")
    return made.view(held(made.inventory, every=2))


def hostile() -> View:
    """Names that try to become markup, and long ones."""
    made = node("1xa100-40gb:all-balanced")
    first, second, *_ = made.inventory.gpus[0].mig_devices
    evil = Holder("<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "'{{live}}'")
    entry = ledgers.cordon(EMPTY, second.uuid, made.inventory, NOW)[second.uuid]
    bad = replace(
        entry, reasons=(replace(entry.reasons[0], code="x", text="</style><b onclick=x>&amp;" * 4),)
    )
    return dataclasses.replace(made, ledger=MappingProxyType({second.uuid: bad})).view(
        {first.uuid: (evil, Holder("n" * 63, "p" * 253, "c" * 63))}
    )


def partitioned() -> View:
    """A configuration of which one GPU waits for a pod, and one was rolled back."""
    made = node("3xa100-40gb:all-1g.5gb")
    first, second, third = made.inventory.gpus
    device = second.mig_devices[2]
    wanted = Wanted.of({"2g.10gb": 3})
    waits = f"GPU 1 waits for 1:2 ({device.uuid}), held by ml/train"
    gpus = (
        GpuProgress(first.uuid, 0, GpuState.APPLIED, wanted),
        GpuProgress(
            second.uuid,
            1,
            GpuState.WAITING,
            wanted,
            Trouble(TroubleCode.IN_USE, waits),
            (Blocker(device.uuid, "1:2", (Occupant("ml/train", pod=True),)),),
            total=17,
        ),
        GpuProgress(
            third.uuid,
            2,
            GpuState.ROLLED_BACK,
            wanted,
            Trouble(TroubleCode.STEP_FAILED, "it failed"),
        ),
    )
    progress = Progress(
        State.WAITING,
        "all-2g.10gb",
        Source.COMMAND,
        since=NOW - 60,
        order=1,
        gpus=gpus,
        trouble=gpus[1].trouble,
        notes=("processes are not known",),
    )
    return replace(made.view({device.uuid: (Holder("ml", "train", "main"),)}), partition=progress)


SCENES: Mapping[str, Callable[[], View]] = MappingProxyType(
    {
        "partitioned": partitioned,
        "slices": slices,
        "balanced": balanced,
        "faulted": faulted,
        "cordoned": cordoned,
        "no-gpus": no_gpus,
        "invalid-single": invalid_single,
        "shared-instances": shared_instances,
        "hostile": hostile,
    }
)
