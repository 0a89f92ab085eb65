"""A unix socket that one process has at a time: made for its user alone, cleaned up after a crash,
never stolen.
"""

from __future__ import annotations

import contextlib
import socket
import stat
import struct
from pathlib import Path
from typing import Any, Self

from plugin.errors import ControlError
from plugin.state.lock import FileLock

_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group


class Listener:
    """Has a bound socket at a path until closed. A lock on a file beside it settles whose the path
    is.

    Without the lock, two daemons that start together could both take the socket of a dead one for
    stale, and the second would remove the first one's.
    """

    def __init__(self, path: Path) -> None:
        """Bind; nobody can connect before the caller listens. Raises :class:`ControlError` or
        OSError.
        """
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        except BlockingIOError:
            raise ControlError("another daemon listens there") from None
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            self.socket = undo.enter_context(socket.socket(socket.AF_UNIX))
            _remove_stale(path)
            self.socket.bind(str(path))
            path.chmod(0o600)
            self._inode = path.lstat().st_ino
            undo.pop_all()

    def is_ours(self) -> bool:
        """Whether the path still leads to this socket."""
        try:
            return self._path.lstat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        if self.is_ours():
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.socket.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _remove_stale(path: Path) -> None:
    """Remove what a dead process left. Raises :class:`ControlError` for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError("what is there is no socket", "remove it, or choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.0)  # one that accepts nobody must not hold up the event loop
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full
    raise ControlError("another process listens there")


def peer(connection: Any) -> tuple[int, int]:
    """``(process, user)`` at the other end, as the kernel knows them since the connection was
    made.
    """
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(pid), int(uid)
