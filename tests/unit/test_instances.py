"""Whatever the order of configurations, XIDs and scans: every XID reaches the instance that was
there when it occurred.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import scans
from plugin.core import state as steps
from plugin.core.health.events import DriverEvent, EventKind
from plugin.core.inventory.model import Gpu, Inventory
from plugin.core.settings import MigStrategy, Settings

from .builders import gpu, mig_device, node

GPUS, SLICES = 2, 3
#: XIDs that the catalogue does not know take devices out; each has a number of its own.
FIRST_XID = 10_000


class Act(enum.Enum):
    REMAKE = "destroy the instance of a slice and make one in its place"
    DESTROY = "destroy the instance of a slice"
    XID = "a fault of the instance of a slice"
    BEGIN = "a scan begins"
    READ = "the scan reads the hardware"
    END = "the scan ends"
    MISREAD = "the scan ends, and one GPU could not be read"
    PARTLY = "the scan ends, and the device of one slice could not be identified"
    FAIL = "the scan fails"


Move = tuple[Act, int, int]
moves = st.lists(
    st.tuples(st.sampled_from(Act), st.integers(0, GPUS - 1), st.integers(0, SLICES - 1)),
    max_size=40,
)


@dataclass
class Model:
    """The hardware beside the state: ``there`` maps (GPU, slice) to the UUID of the instance, whose
    ids are those of the slice. ``truth`` is the UUID that each XID is of.
    """

    there: dict[tuple[int, int], str] = field(default_factory=dict)
    truth: dict[int, str] = field(default_factory=dict)
    #: XIDs after which the GPU was configured again while they waited: nobody can know any more
    #: whether they are of the instance before or after.
    blurred: set[int] = field(default_factory=set)
    scanning: bool = False
    read: Inventory | None = None
    made: int = 0

    def __post_init__(self) -> None:
        for index in range(GPUS):
            self.make(index, 0)
        self.state = steps.initial(Settings(mig_strategy=MigStrategy.MIXED), 0.0)
        self.scan()

    def make(self, index: int, start: int) -> None:
        self.made += 1
        self.there[index, start] = f"MIG-{self.made}"

    def inventory(self) -> Inventory:
        return node(*(self.gpu(index) for index in range(GPUS)))

    def gpu(self, index: int, hidden: int | None = None) -> Gpu:
        devices = (
            mig_device(index, start, uuid=self.there[index, start])
            for start in range(SLICES)
            if (index, start) in self.there and start != hidden
        )
        return gpu(index, *devices, mig=True)

    # ---- what happens

    def scan(self) -> None:
        self.state = scans.scan_begun(self.state)
        self.end(self.inventory())

    def end(self, scan: Inventory) -> None:
        self.scanning, self.read = False, None
        self.state = scans.scan_ended(self.state, scan, 0.0).state

    def happens(self, event: DriverEvent) -> None:
        self.state = steps.happened(self.state, [event], 0.0).state

    def configure(self, index: int, start: int, *, remake: bool) -> None:
        waiting = {e.data for e in self.state.deferred if e.gpu_uuid == f"GPU-{index}"}
        self.blurred |= waiting
        if remake:
            self.make(index, start)
        else:
            self.there.pop((index, start), None)
        self.happens(DriverEvent(EventKind.MIG_CONFIG, f"GPU-{index}"))

    def xid(self, index: int, start: int) -> None:
        if (index, start) not in self.there:
            return
        number = FIRST_XID + len(self.truth)
        self.truth[number] = self.there[index, start]
        self.happens(DriverEvent(EventKind.XID, f"GPU-{index}", 7 + start, 0, number))

    def move(self, act: Act, index: int, start: int) -> None:
        match act:
            case Act.REMAKE | Act.DESTROY:
                self.configure(index, start, remake=act is Act.REMAKE)
            case Act.XID:
                self.xid(index, start)
            case Act.BEGIN if not self.scanning:
                self.scanning, self.read = True, None
                self.state = scans.scan_begun(self.state)
            case Act.READ if self.scanning:
                self.read = self.read or self.inventory()
            case Act.END if self.scanning:
                self.end(self.read or self.inventory())
            case Act.MISREAD | Act.PARTLY if self.scanning:
                broken = gpu(index, error="no answer")
                if act is Act.PARTLY:
                    broken = replace(self.gpu(index, hidden=start), unreadable={start: "no UUID"})
                others = [self.gpu(n) if n != index else broken for n in range(GPUS)]
                self.end(node(*others))
            case Act.FAIL if self.scanning:
                self.scanning, self.read = False, None
                reason = scans.driver_unavailable("away")
                self.state = scans.scan_failed(self.state, reason).state

    # ---- what is held

    def held(self) -> dict[int, set[str]]:
        """XID → UUIDs that it holds down."""
        found: dict[int, set[str]] = {number: set() for number in self.truth}
        for uuid, entry in self.state.snapshot.ledger.items():
            for reason in entry.reasons:
                found[int(reason.code.removeprefix("xid-"))].add(uuid)
        return found


@given(moves)
@settings(max_examples=300, deadline=None)
@example([(Act.REMAKE, 0, 0), (Act.BEGIN, 0, 0), (Act.FAIL, 0, 0), (Act.XID, 0, 0)])
@example([(Act.REMAKE, 0, 0), (Act.BEGIN, 0, 0), (Act.MISREAD, 0, 0), (Act.XID, 0, 0)])
@example([(Act.REMAKE, 0, 0), (Act.XID, 0, 0), (Act.BEGIN, 0, 0), (Act.PARTLY, 0, 0)])
@example([(Act.REMAKE, 0, 0), (Act.BEGIN, 0, 0), (Act.XID, 0, 0)])
@example([(Act.BEGIN, 0, 0), (Act.READ, 0, 0), (Act.REMAKE, 0, 0), (Act.XID, 0, 0)])
@example([(Act.REMAKE, 0, 0), (Act.XID, 0, 0), (Act.REMAKE, 0, 1)])
def test_every_xid_reaches_the_instance_that_was_there(history: Sequence[Move]) -> None:
    model = Model()
    for act, index, start in history:
        model.move(act, index, start)
        for number, uuids in model.held().items():
            if number not in model.blurred:
                assert uuids <= {model.truth[number]}
    model.scan()
    assert model.state.deferred == ()
    held = model.held()
    for number, uuid in model.truth.items():
        if uuid in model.there.values():
            assert uuid in held[number]
        if number not in model.blurred:
            assert held[number] <= {uuid}
