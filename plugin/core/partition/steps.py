"""What a plan is made of: steps, the instances they lead to, and why there may be no plan."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from plugin.core.inventory.model import Placement


class SwitchMode(Struct, frozen=True):
    """Switch MIG mode. With ``needs_reset`` it takes effect at the next GPU reset: the steps behind
    this one come after that.
    """

    on: bool
    needs_reset: bool = False

    def __str__(self) -> str:
        after = ", which takes a GPU reset" if self.needs_reset else ""
        return f"switch MIG mode {'on' if self.on else 'off'}{after}"


class DestroyComputeInstance(Struct, frozen=True):
    gi: int
    ci: int
    uuid: str

    def __str__(self) -> str:
        return f"destroy compute instance {self.gi}/{self.ci} ({self.uuid})"


class DestroyGpuInstance(Struct, frozen=True):
    gi: int
    profile: str
    placement: Placement

    def __str__(self) -> str:
        return f"destroy GPU instance {self.gi} ({self.profile or '?'} at {self.placement})"


class CreateGpuInstance(Struct, frozen=True):
    profile: str
    profile_id: int
    placement: Placement

    def __str__(self) -> str:
        return f"create {self.profile} at {self.placement}"


class CreateComputeInstance(Struct, frozen=True):
    """Create a compute instance in the GPU instance at ``placement``. ``gi`` is its id, ``None``
    where a step before this one creates it. ``profile_id`` is that of the compute profile.
    """

    profile: str
    profile_id: int
    slices: int
    placement: Placement
    gi: int | None = None

    def __str__(self) -> str:
        where = "" if self.gi is None else f" in GPU instance {self.gi}"
        return f"create compute instance {self.profile}{where} at {self.placement}"


Step = (
    SwitchMode
    | DestroyComputeInstance
    | DestroyGpuInstance
    | CreateGpuInstance
    | CreateComputeInstance
)

#: The names of the kinds, for metrics and JSON.
KINDS: Final[Mapping[type[Step], str]] = MappingProxyType(
    {
        SwitchMode: "switch-mode",
        DestroyComputeInstance: "destroy-compute-instance",
        DestroyGpuInstance: "destroy-gpu-instance",
        CreateGpuInstance: "create-gpu-instance",
        CreateComputeInstance: "create-compute-instance",
    }
)


class Seat(Struct, frozen=True):
    """A GPU instance of the geometry that a plan leads to.

    ``kept`` are UUIDs of its compute instances that stay, ``created`` the sizes of the new ones in
    the order of their creation. ``gi`` is ``None`` for a new GPU instance.
    """

    profile: str
    placement: Placement
    compute: tuple[int, ...]
    gi: int | None = None
    kept: tuple[str, ...] = ()
    created: tuple[int, ...] = ()


class Plan(Struct, frozen=True):
    """``seats`` is the geometry behind the last step, by placement. ``kept`` and ``leaving`` are
    UUIDs of the MIG devices that stay and of those that are destroyed.
    """

    steps: tuple[Step, ...] = ()
    mig: bool = True
    seats: tuple[Seat, ...] = ()
    kept: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()

    @property
    def needs_reset(self) -> bool:
        return any(isinstance(step, SwitchMode) and step.needs_reset for step in self.steps)


class Occupant(Struct, frozen=True, order=True):
    """Who uses a device: a pod by its name, or anything else that has it open, such as a process.
    ``pod`` says that an eviction can end it.
    """

    name: str
    pod: bool = False

    def __str__(self) -> str:
        return self.name


class Blocker(Struct, frozen=True):
    """A device in the way that is in use. ``path`` is its index, or GPU and MIG index."""

    uuid: str
    path: str
    holders: tuple[Occupant, ...]

    def __str__(self) -> str:
        return f"{self.path} ({self.uuid}), held by {', '.join(map(str, self.holders))}"


class RefusalCode(enum.StrEnum):
    """Why there is no plan for a GPU now."""

    IN_USE = "in-use"  # goes away with the holders
    IMPOSSIBLE = "impossible"  # the wanted devices do not fit onto this card, whatever is freed
    UNKNOWN_PROFILE = "unknown-profile"  # the card does not offer it
    NO_MIG = "no-mig"  # the card has no MIG
    UNREADABLE = "unreadable"  # the driver does not say what is on the GPU
    UNSETTLED = "unsettled"  # the next scan says what is on the GPU


#: What no waiting ends: the configuration does not suit the card.
MISFITS = frozenset({RefusalCode.IMPOSSIBLE, RefusalCode.UNKNOWN_PROFILE, RefusalCode.NO_MIG})


class Refusal(Struct, frozen=True):
    """``blockers`` are the fewest devices whose release makes ``after`` possible."""

    code: RefusalCode
    text: str
    blockers: tuple[Blocker, ...] = ()
    after: Plan | None = None


class ResetNeeded(Struct, frozen=True):
    """The wanted MIG mode is set and waits for a GPU reset or a reboot. Or ``by_hand``: the
    administrator has to do what this says.
    """

    on: bool
    by_hand: str = ""

    @property
    def text(self) -> str:
        mode = f"MIG mode {'on' if self.on else 'off'}"
        if self.by_hand:
            return f"{mode} is wanted, and --partition-mig-mode is false: {self.by_hand}"
        return f"{mode} waits for a GPU reset or a reboot"


Outcome = Plan | Refusal | ResetNeeded
