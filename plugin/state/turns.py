"""Who may change GPUs: the node's daemon, or a command where none runs.

Each takes its own lock and then looks at the other's, so that of two that start at once at least
one sees the other. The daemon's lock is that of its ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from plugin.config import bounded
from plugin.errors import ControlError
from plugin.state.lock import FileLock, is_held, lock_of

#: The command's lock, beside the ledger.
LOCK = "partition-apply.lock"


@contextlib.contextmanager
def without_daemon(ledger: Path, socket: str) -> Iterator[None]:
    """A daemon that starts meanwhile registers no device. Raises :class:`ControlError` while a
    daemon runs or another command does the same; `socket` is where no daemon answers.
    """
    path = ledger.with_name(LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
    except BlockingIOError:
        raise ControlError(
            "another partition apply changes the GPUs of this node", "wait for its end"
        ) from None
    except OSError as error:
        raise ControlError(
            f"whether a daemon runs is not known: {path} cannot be locked: {error}", "run as root"
        ) from error
    try:
        _refuse_daemon(ledger, socket)
        yield
    finally:
        lock.release()


def _refuse_daemon(ledger: Path, socket: str) -> None:
    path = lock_of(ledger)
    try:
        runs = is_held(path)
    except OSError as error:
        raise ControlError(
            f"whether a daemon runs is not known: {path} cannot be read: {error}", "run as root"
        ) from error
    if runs:
        where = f"does not listen on {socket}" if socket else "cannot be asked"
        raise ControlError(
            f"a daemon runs here, which has locked {path} and {where}: its GPUs are not changed",
            "name its control socket with --control-socket; while it starts or stops, try again",
        )


def command_runs(ledger: Path, asked: Callable[[Path], bool] = is_held) -> bool:
    """Whether a command changes GPUs; false where the folder may not be looked into. Blocks, and
    may hang with the file system. Raises TimeoutError where that cannot be asked now.
    """
    try:
        return asked(ledger.with_name(LOCK))
    except OSError as error:
        if bounded.is_away(error):
            raise TimeoutError(error.errno, error.strerror) from error
        return False
