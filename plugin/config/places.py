"""Where the control socket is when nothing names it: in the system's folder, or in the user's own
where a simulation runs without root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from plugin.core.settings import Settings

SYSTEM = Settings().control_socket
_NAME = "mig-device-plugin/control.sock"


def user_sockets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """In ``XDG_RUNTIME_DIR``, and in the user's state folder."""
    home = environment.get("HOME", "")
    folders = (
        environment.get("XDG_RUNTIME_DIR", ""),
        environment.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else ""),
    )
    return tuple(str(Path(folder, _NAME)) for folder in folders if folder.startswith("/"))


def _writable(socket: str) -> bool:
    """Whether a socket can be made there, its folders included."""
    folder = Path(socket).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def control_socket(
    environment: Mapping[str, str],
    *,
    simulate: bool,
    writable: Callable[[str], bool] = _writable,
    exists: Callable[[str], bool] = os.path.exists,
) -> str:
    """The same for the daemon and for the commands to it, which are not given ``--simulate``: they
    find the user's socket because it is there.
    """
    if writable(SYSTEM):
        return SYSTEM
    own = user_sockets(environment)
    found = [socket for socket in own if exists(socket)]
    if simulate:
        found += [socket for socket in own if writable(socket)]
    return next(iter(found), SYSTEM)
