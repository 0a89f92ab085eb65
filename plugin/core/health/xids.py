"""NVIDIA's XID catalogue: what each XID means and what to do about it at once.

Source: the immediate actions of NVIDIA's published XID catalogue. XIDs that are not in it are
unknown, not harmless.
"""

from __future__ import annotations

import enum

from msgspec import Struct


class Action(enum.StrEnum):
    """The catalogue's immediate action."""

    IGNORE = "ignore"
    RESTART_APP = "restart the application"
    RESET_GPU = "reset the GPU"
    RESTART_NODE = "restart the node"
    RESTART_VM = "restart the virtual machine"
    CHECK_MECHANICALS = "check power and seating"
    CHECK_UVM = "check the unified memory driver"
    CONTACT_SUPPORT = "contact support"
    UPDATE_SOFTWARE = "update the software"
    WORKFLOW = "follow NVIDIA's workflow"
    RECOVERY_ACTION_CHANGED = "read the recovery action"


class Xid(Struct, frozen=True):
    meaning: str
    action: Action


CATALOGUE: dict[int, Xid] = {
    8: Xid("GPU stopped processing", Action.RESTART_APP),
    11: Xid("invalid or corrupted push buffer", Action.RESTART_APP),
    13: Xid("graphics engine exception", Action.RESTART_APP),
    14: Xid("unused", Action.IGNORE),
    25: Xid("invalid or illegal push buffer", Action.RESTART_APP),
    31: Xid("GPU memory page fault", Action.RESTART_APP),
    32: Xid("invalid or corrupted push buffer stream", Action.RESTART_APP),
    37: Xid("driver firmware error", Action.IGNORE),
    38: Xid("driver firmware error", Action.IGNORE),
    39: Xid("copy engine exception", Action.RESTART_APP),
    40: Xid("copy engine exception", Action.RESTART_APP),
    41: Xid("copy engine exception", Action.RESTART_APP),
    43: Xid("GPU stopped processing (user application)", Action.IGNORE),
    44: Xid("fault during context switch", Action.IGNORE),
    45: Xid("preemptive cleanup after earlier errors", Action.WORKFLOW),
    46: Xid("GPU stopped processing (timeout)", Action.RESET_GPU),
    48: Xid("double-bit ECC error", Action.WORKFLOW),
    54: Xid("auxiliary power not connected", Action.CHECK_MECHANICALS),
    60: Xid("video processor exception", Action.RESTART_APP),
    62: Xid("internal micro-controller halt", Action.RESET_GPU),
    63: Xid("row remapping recorded", Action.IGNORE),
    64: Xid("row remapper failure", Action.RESET_GPU),
    66: Xid("illegal access by driver", Action.IGNORE),
    67: Xid("illegal access by driver", Action.IGNORE),
    68: Xid("NVDEC exception", Action.RESTART_APP),
    69: Xid("graphics engine class error", Action.RESTART_APP),
    70: Xid("copy engine exception", Action.RESTART_APP),
    71: Xid("copy engine exception", Action.RESTART_APP),
    72: Xid("copy engine exception", Action.RESTART_APP),
    74: Xid("NVLink error", Action.WORKFLOW),
    75: Xid("copy engine exception", Action.RESTART_APP),
    76: Xid("copy engine exception", Action.RESTART_APP),
    77: Xid("copy engine exception", Action.RESTART_APP),
    78: Xid("vGPU start error", Action.UPDATE_SOFTWARE),
    79: Xid("GPU has fallen off the bus", Action.RESTART_NODE),
    80: Xid("corrupted data sent to GPU", Action.RESTART_APP),
    82: Xid("NVJPG error", Action.RESTART_APP),
    83: Xid("NVDEC error", Action.RESTART_APP),
    84: Xid("NVDEC error", Action.RESTART_APP),
    85: Xid("copy engine exception", Action.RESTART_APP),
    86: Xid("OFA exception", Action.RESTART_APP),
    88: Xid("NVDEC error", Action.RESTART_APP),
    89: Xid("NVDEC error", Action.RESTART_APP),
    92: Xid("high single-bit ECC rate", Action.IGNORE),
    93: Xid("non-fatal InfoROM wear", Action.IGNORE),
    94: Xid("contained memory error", Action.RESTART_APP),
    95: Xid("uncontained memory error", Action.RESET_GPU),
    96: Xid("NVDEC error", Action.RESTART_APP),
    97: Xid("NVDEC error", Action.RESTART_APP),
    98: Xid("NVDEC error", Action.RESTART_APP),
    99: Xid("NVJPG error", Action.RESTART_APP),
    100: Xid("NVJPG error", Action.RESTART_APP),
    101: Xid("NVJPG error", Action.RESTART_APP),
    102: Xid("NVJPG error", Action.RESTART_APP),
    103: Xid("NVJPG error", Action.RESTART_APP),
    104: Xid("NVJPG error", Action.RESTART_APP),
    105: Xid("NVJPG error", Action.RESTART_APP),
    106: Xid("test", Action.IGNORE),
    107: Xid("test", Action.IGNORE),
    108: Xid("unused", Action.IGNORE),
    109: Xid("context switch timeout", Action.RESET_GPU),
    110: Xid("security fault", Action.RESET_GPU),
    119: Xid("GSP RPC timeout", Action.RESET_GPU),
    120: Xid("GSP error", Action.RESET_GPU),
    121: Xid("C2C link corrected error", Action.IGNORE),
    126: Xid("copy engine exception", Action.RESTART_APP),
    127: Xid("copy engine exception", Action.RESTART_APP),
    128: Xid("copy engine exception", Action.RESTART_APP),
    129: Xid("copy engine exception", Action.RESTART_APP),
    130: Xid("copy engine exception", Action.RESTART_APP),
    131: Xid("copy engine exception", Action.RESTART_APP),
    132: Xid("copy engine exception", Action.RESTART_APP),
    133: Xid("copy engine exception", Action.RESTART_APP),
    134: Xid("copy engine exception", Action.RESTART_APP),
    135: Xid("copy engine exception", Action.RESTART_APP),
    136: Xid("link training failed", Action.RESET_GPU),
    137: Xid("NVLink privilege error", Action.IGNORE),
    139: Xid("OFA error", Action.RESTART_APP),
    140: Xid("unrecovered ECC error", Action.RESET_GPU),
    141: Xid("fast path", Action.IGNORE),
    142: Xid("NVENC3 error", Action.CONTACT_SUPPORT),
    143: Xid("GPU initialisation error", Action.RESET_GPU),
    144: Xid("NVLink5 error", Action.WORKFLOW),
    145: Xid("NVLink5 error", Action.WORKFLOW),
    146: Xid("NVLink5 error", Action.WORKFLOW),
    147: Xid("NVLink5 error", Action.WORKFLOW),
    148: Xid("NVLink5 error", Action.WORKFLOW),
    149: Xid("NVLink5 error (link down)", Action.WORKFLOW),
    150: Xid("NVLink5 error", Action.WORKFLOW),
    151: Xid("key rotation error", Action.RESTART_VM),
    152: Xid("DLA", Action.IGNORE),
    153: Xid("DLA", Action.IGNORE),
    154: Xid("GPU recovery action changed", Action.RECOVERY_ACTION_CHANGED),
    155: Xid("NVLink software defined error", Action.RESET_GPU),
    156: Xid("resource retirement event", Action.RESET_GPU),
    157: Xid("retirement failure notice", Action.IGNORE),
    158: Xid("GPU fatal timeout", Action.RESET_GPU),
    159: Xid("UVM error", Action.CHECK_UVM),
    160: Xid("channel retirement", Action.IGNORE),
    161: Xid("channel retirement", Action.IGNORE),
}
