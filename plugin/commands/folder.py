"""A folder for one run of a simulated node: its sockets, its state and its log."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from plugin.errors import SimulationError

#: The kernel takes paths of unix sockets up to here.
SOCKET_PATH_BYTES = 107
#: What the longest of our sockets adds: that of a resource in kubelet's folder.
LONGEST_SOCKET = "/device-plugins/nvidia.com-mig-1c.3g.20gb.me.all-00000000-10000.sock"
_PREFIX, _RANDOM = "mig-", 8


def roots(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Folders to look at, the user's choice first, in which sockets have room."""
    named = (environment.get("TMPDIR"), environment.get("XDG_RUNTIME_DIR"), "/tmp")  # noqa: S108 — made for one user alone, see below
    room = SOCKET_PATH_BYTES - len(LONGEST_SOCKET) - len(_PREFIX) - _RANDOM - 1
    return tuple(
        Path(name)
        for name in named
        if name and Path(name).is_absolute() and len(os.fsencode(name)) <= room
    )


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder that is this user's alone, deleted at the end. Raises SimulationError where none
    can be made.
    """
    made = next(filter(None, map(_make, roots(os.environ))), None)
    if made is None:
        raise SimulationError(
            "no folder for the sockets can be made",
            "name one with TMPDIR that can be written to and whose path is short",
        )
    with made as name:
        yield Path(name)


def _make(root: Path) -> tempfile.TemporaryDirectory[str] | None:
    try:
        return tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root, ignore_cleanup_errors=True)
    except OSError:
        return None
