"""Reads the clocks."""

from __future__ import annotations

import time

from plugin.core.health.timeline import Moment


def read_clocks() -> Moment:
    """The wall clock and the monotonic one, now."""
    return Moment(time.time(), time.monotonic())
