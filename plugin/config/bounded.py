"""Bounded reads of untrusted files: pipes, devices and endless files neither block nor fill
memory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MEBIBYTE = 2**20

#: What a file system says whose server is away.
_AWAY = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)


def is_away(error: OSError) -> bool:
    """Whether the file system could not be asked: what it has is not known then."""
    return error.errno in _AWAY


def read(path: Path | str, limit: int = MEBIBYTE, *, follow: bool = True) -> bytes:
    """Read a regular file of at most `limit` bytes; refuse symbolic links unless `follow`.

    Raises OSError with ``EINVAL`` for other kinds of file and ``EFBIG`` for larger ones, and
    ValueError for a path with a zero byte.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        chunks, left = [], limit + 1
        # Read to the end: files in /proc have no size, and a file may grow meanwhile.
        while left and (chunk := os.read(descriptor, left)):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(descriptor)
    if not left:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", str(path))
    return b"".join(chunks)
