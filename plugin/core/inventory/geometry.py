"""What instances a GPU can have, and who holds it: the driver's answers that partitioning builds
on.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from plugin.core.inventory.model import Placement


class ProfileOffer(Struct, frozen=True):
    """A GPU instance profile that a GPU has, with MIG on or off, whatever is on it now.

    ``name`` is the driver's (``1g.10gb+me``). ``placements`` are all that the card has for it, in
    order; which of them are free is told by the instances. ``max_instances`` is how many of them an
    empty GPU has at most. ``compute_profiles`` are ``(slices, compute instance profile id)``, from
    the smallest, the last being the whole GPU instance.
    """

    name: str
    profile_id: int
    slices: int
    memory_mib: int
    placements: tuple[Placement, ...]
    max_instances: int
    compute_profiles: tuple[tuple[int, int], ...]


class ComputeInstance(Struct, frozen=True):
    """A compute instance that was made. ``uuid`` is that of its MIG device, ``None`` where it could
    not be read: the next scan has it.
    """

    gi: int
    id: int
    slices: int
    uuid: str | None = None


class ClientKind(enum.Enum):
    """What a process does on a device."""

    COMPUTE = "compute"
    GRAPHICS = "graphics"
    MPS = "mps"


class Client(Struct, frozen=True):
    """A process that holds a device. ``gi`` and ``ci`` are ``None`` where it holds the GPU as a
    whole.
    """

    pid: int
    kind: ClientKind
    gi: int | None = None
    ci: int | None = None
