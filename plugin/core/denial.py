"""Why the system refuses to let a socket listen, and what to set."""

from __future__ import annotations

import errno

#: Binding a lower port needs a capability.
_FIRST_FREE_PORT = 1024
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_FIXES = {
    errno.ENOENT: "mount or create the directory",
    errno.ENOTDIR: "mount or create the directory",
    errno.EROFS: "mount the directory writable",
}


def explained(what: str, error: OSError, *, user: int, port: int | None = None) -> str:
    """One line: `what` failed, the system's reason with its name, and what to do about it.

    `user` is who tried; `port` is that of a network socket, ``None`` for a path.
    """
    name = errno.errorcode.get(error.errno or 0, "")
    reason = f"{error.strerror} ({name})" if name else str(error)
    fix = _fix(error.errno or 0, user, port)
    return f"{what}: {reason}" + (f"; {fix}" if fix else "")


def _fix(number: int, user: int, port: int | None) -> str:
    if number not in _DENIED:
        return _FIXES.get(number, "")
    if port is not None and 0 < port < _FIRST_FREE_PORT:
        return (
            f"ports below {_FIRST_FREE_PORT} need the capability NET_BIND_SERVICE: add it, or "
            "choose a higher port"
        )
    if user != 0:
        return f"user {user} may not: run as root, or choose another place"
    return (
        "root is denied this by SELinux or AppArmor, or the directory is another user's: set "
        "seLinuxOptions.type to spc_t or appArmorProfile.type to Unconfined in the pod's "
        "securityContext"
    )
