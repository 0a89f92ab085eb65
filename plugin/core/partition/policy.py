"""What to do about devices in the way that are in use."""

from __future__ import annotations

import enum


class Policy(enum.StrEnum):
    """What to do about devices in the way that are in use."""

    WAIT = "wait"  # change the other GPUs now, and each GPU in use when it is free
    EVICT = "evict"  # as wait, and evict the pods that hold them
    REFUSE = "refuse"  # change nothing on any GPU
    FORCE = "force"  # destroy them under their users
