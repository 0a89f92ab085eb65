"""MIG profile names: their grammar, the arithmetic behind them and the resource names made
of them.
"""

from __future__ import annotations

import math
import re

from msgspec import Struct

RESOURCE_PREFIX = "nvidia.com/"
GPU_RESOURCE = RESOURCE_PREFIX + "gpu"

_NAME = re.compile(
    r"(?:(?P<c>[0-9]+)c\.)?(?P<g>[0-9]+)g\.(?P<gb>[0-9]+)gb(?P<attribute>[+-][a-z0-9.]+(?:[+-][a-z0-9.]+)*)?"
)
_DRIVER_PREFIX = "MIG "


class Profile(Struct, frozen=True):
    """A profile name taken apart: ``1c.3g.20gb+me`` is 1 compute slice of a 3-slice, 20 GB GPU
    instance.

    ``ci_slices`` equals ``gi_slices`` where the name has no ``c`` part. ``attribute`` keeps its
    sign.
    """

    ci_slices: int
    gi_slices: int
    memory_gb: int
    attribute: str = ""

    @classmethod
    def parse(cls, name: str) -> Profile | None:
        """The profile called `name`, or ``None`` when it is no profile name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        gi_slices = int(match["g"])
        return cls(
            int(match["c"] or gi_slices), gi_slices, int(match["gb"]), match["attribute"] or ""
        )

    def __str__(self) -> str:
        compute = f"{self.ci_slices}c." if self.ci_slices != self.gi_slices else ""
        return f"{compute}{self.gi_slices}g.{self.memory_gb}gb{self.attribute}"


def resource_name(profile: str) -> str:
    """``1g.10gb+me`` → ``nvidia.com/mig-1g.10gb.me``; the minus of ``-me`` stays."""
    return f"{RESOURCE_PREFIX}mig-{profile.replace('+', '.')}"


def profile_of_driver_name(name: str, *, ci_slices: int = 0, gi_slices: int = 0) -> str:
    """The driver's own name (``MIG 1g.10gb+me``) as a profile name, with its ``c`` part when the CI
    is smaller.

    Empty when the driver's words are not a profile name.
    """
    parsed = Profile.parse(name.removeprefix(_DRIVER_PREFIX).strip())
    if parsed is None:
        return ""
    return str(
        Profile(
            ci_slices or parsed.ci_slices,
            gi_slices or parsed.gi_slices,
            parsed.memory_gb,
            parsed.attribute,
        )
    )


def memory_gb(instance_mib: int, total_mib: int) -> int:
    """GB as NVIDIA writes them into a name: eighths of the card, rounded up, of the card's whole
    GiB.

    Halves go up (70.5 is 71 on an H200), where Python's own rounding would take the even neighbour.
    """
    if total_mib <= 0:
        return 0
    eighths = math.ceil(instance_mib / total_mib * 8)
    return (eighths * math.ceil(total_mib / 1024) + 4) // 8


def profile_by_arithmetic(ci_slices: int, gi_slices: int, instance_mib: int, total_mib: int) -> str:
    """A name for a device whose driver gives none; attributes such as ``+me`` cannot be told this
    way.

    Empty when the numbers cannot be those of a device.
    """
    gigabytes = memory_gb(instance_mib, total_mib)
    return (
        str(Profile(ci_slices, gi_slices, gigabytes))
        if ci_slices and gi_slices and gigabytes
        else ""
    )
