"""Why a device must not be used: one value from where it arises to the page, the metrics, the JSON
state, the ledger file and the log.

Code asks for :attr:`Reason.code` and never looks at the text.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct


class Clears(enum.StrEnum):
    """What clears a reason."""

    # no recovery action, the same instance enumerates, and a quiet period has passed
    RECOVERY = "recovery"
    OPERATOR = "operator"  # nothing but the opposite command


class Scope(enum.StrEnum):
    """Whom a reason concerns."""

    DEVICE = "device"  # this device, or its GPU
    NODE = "node"  # every device of the node alike; it is among the node's problems


class Code(enum.StrEnum):
    """Every code but those of XIDs, which :func:`xid_code` makes. :data:`MEANINGS` explains
    them.
    """

    CORDONED = "cordoned"
    REPEATED_APPLICATION_FAULTS = "repeated-application-faults"
    DOUBLE_BIT_ECC = "double-bit-ecc"
    DRAM_RETIREMENT = "dram-retirement"
    DRAM_RETIREMENT_FAILURE = "dram-retirement-failure"
    NON_FATAL_POISON = "non-fatal-poison"
    FATAL_POISON = "fatal-poison"
    GPU_UNAVAILABLE = "gpu-unavailable"
    GPU_LOST = "gpu-lost"
    RECOVERY_ACTION = "recovery-action"
    REMAP_FAILURE = "remap-failure"
    WITHHELD = "withheld"
    UNREADABLE = "unreadable"
    NOT_ANSWERING = "not-answering"
    MISSING_NODE = "missing-node"
    UNSPECIFIED = "unspecified"
    UNWATCHED = "unwatched"
    RELEASED = "released"
    DRIVER_UNAVAILABLE = "driver-unavailable"
    PARTITIONING = "partitioning"


#: What somebody has ordered is no fault: of the node's condition, and of all else that judges it.
ORDERED: Final = frozenset({Code.CORDONED, Code.PARTITIONING, Code.RELEASED})

#: The table of docs/health.md; ``xid-N`` stands for the codes of all XIDs.
MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "xid-N": "an XID whose catalogue action takes devices out of service",
        Code.REPEATED_APPLICATION_FAULTS: "many faults of applications in a short time",
        Code.DOUBLE_BIT_ECC: "a double-bit ECC error, which counts as XID 48",
        Code.DRAM_RETIREMENT: "memory was retired, which counts as XID 63",
        Code.DRAM_RETIREMENT_FAILURE: "memory could not be retired, which counts as XID 64",
        Code.NON_FATAL_POISON: "a contained memory error, which counts as XID 94",
        Code.FATAL_POISON: "an uncontained memory error, which counts as XID 95",
        Code.GPU_UNAVAILABLE: "the driver reported the GPU as unavailable",
        Code.GPU_LOST: "a probe found that the GPU does not answer",
        Code.RECOVERY_ACTION: "the driver asks for a recovery action, such as a reset",
        Code.REMAP_FAILURE: "a memory row could not be remapped",
        Code.CORDONED: "an operator took the device out of service",
        Code.WITHHELD: "the device is on the node and in no list",
        Code.UNREADABLE: "the driver could not read the device",
        Code.NOT_ANSWERING: "a call of the driver about the GPU has not returned",
        Code.MISSING_NODE: "a device node that a container needs does not exist",
        Code.UNSPECIFIED: "the CDI specification on disk does not have the device",
        Code.UNWATCHED: "events of the GPU cannot be watched",
        Code.RELEASED: "the driver is released so that the GPU can be reset",
        Code.DRIVER_UNAVAILABLE: "the driver as a whole does not answer",
        Code.PARTITIONING: "a MIG configuration is being applied to the device's GPU",
    }
)


def xid_code(xid: int) -> str:
    return f"xid-{xid}"


class Reason(Struct, frozen=True):
    """``code`` is for machines, ``text`` for people.

    ``since`` and ``last`` are the first and the latest time in seconds of the wall clock, and
    ``clears`` says what ends the reason. They are ``None`` for what only holds while it is found:
    an unreadable device, a missing device node, an absent driver.
    """

    code: str
    text: str
    since: float | None = None
    last: float | None = None
    clears: Clears | None = None
    scope: Scope = Scope.DEVICE

    @classmethod
    def held(cls, code: str, text: str, now: float, clears: Clears = Clears.RECOVERY) -> Reason:
        """A reason for the ledger: it arose at `now` and stays until its rule ends it."""
        return cls(code, text, now, now, clears)


def texts(reasons: tuple[Reason, ...]) -> str:
    """All of them in one line, for people."""
    return "; ".join(reason.text for reason in reasons)
