"""Writes files whole and at once: whoever reads one sees the old contents or the new."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Replace the file, with its contents and its name on disk. Raises OSError."""
    # A name that nobody can foresee, and a file that was not there: a link that somebody put
    # into the folder leads nowhere.
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _sync_folder(path.parent)


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
