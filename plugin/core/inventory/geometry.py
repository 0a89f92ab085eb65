"""What a card can be partitioned into, in the driver's own words."""

from __future__ import annotations

from dataclasses import dataclass

from plugin.core.inventory.model import Placement


@dataclass(frozen=True, slots=True)
class ProfileOffer:
    """A GPU instance profile that a card offers, whether MIG mode is on or off.

    ``name`` is the driver's (``1g.5gb+me``) and ``profile_id`` the id to create instances by.
    ``placements`` are all that the profile can have, in memory slices. ``compute_profiles`` are
    (slices, compute profile id) of the compute instances that fit into an instance.
    """

    name: str
    profile_id: int
    slices: int
    memory_mib: int
    placements: tuple[Placement, ...]
    max_instances: int
    compute_profiles: tuple[tuple[int, int], ...]
