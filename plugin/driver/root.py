"""A driver installation below a root directory, as the host or a driver container has it."""

from __future__ import annotations

import errno
from pathlib import Path

#: Where distributions, driver containers, Google's nodes, NixOS and Talos keep the library, below a
#: driver root.
FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib",
    "usr/local/nvidia/lib64",
    "home/kubernetes/bin/nvidia/lib64",
    "run/opengl-driver/lib",
    "usr/local/glibc/usr/lib",
    "usr/local/glibc/lib",
)

#: As many as Linux follows.
_MOST_LINKS = 40


def resolve(root: Path, path: str) -> Path:
    """Follow every link in `path` as a process would whose root directory is `root`. The end need
    not exist.

    Debian's alternatives, for one, are chains of absolute links, which would lead out of a mounted
    root.
    """
    at = root = root.resolve()
    pending = list(reversed(Path(path).parts))
    links = 0
    while pending:
        part = pending.pop()
        if part == "/":
            at = root
        elif part == "..":
            at = at if at == root else at.parent
        elif (at / part).is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, "too many links", str(root / path))
            pending += reversed((at / part).readlink().parts)
        else:
            at /= part
    return at
