"""Reading a file that somebody else writes, whatever it is: a pipe, a device or an endless file
holds nobody up.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MEBIBYTE = 2**20


def read(path: Path | str, limit: int = MEBIBYTE, *, follow: bool = True) -> bytes:
    """The content of a regular file of at most `limit` bytes; with `follow` false, of no symbolic
    link.

    Raises OSError with ``EINVAL`` for what is no regular file and with ``EFBIG`` for a larger one;
    and ValueError for a path with a zero byte, as every call of the kind does.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for a writer.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        chunks, left = [], limit + 1
        # Until the end: files in /proc have no size, and a file may grow while it is read.
        while left and (chunk := os.read(descriptor, left)):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(descriptor)
    if not left:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", str(path))
    return b"".join(chunks)
