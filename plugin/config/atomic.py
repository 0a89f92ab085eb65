"""Files that are replaced as a whole: a reader sees the old content or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path

#: Of most files: their reader may be another user.
MODE = 0o644


def replace(path: Path, content: bytes, mode: int = MODE) -> None:
    """Replace or make a file with this mode, and have it on disk. Raises OSError."""
    # A name that nobody can foresee, and a file that was not there: a link that somebody put into
    # the folder leads nowhere. In the same folder, where a rename is noticed by those that watch
    # it, and under an ending that means nothing to them.
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)  # whatever the umask
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what a process left that was killed while it replaced the file. Raises OSError."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}")
    for other in path.parent.iterdir():
        if ours.fullmatch(other.name):
            with contextlib.suppress(OSError):
                other.unlink()


def _sync_folder(path: Path) -> None:
    """Have the new name of a file on disk too. Some file systems cannot do that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
