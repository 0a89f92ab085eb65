"""A machine with podman as its container runtime: our processes in a mount namespace of their own,
where the directory of CDI specifications is the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BUSYBOX = Path("/bin/busybox")
NEEDED = ("podman", "crun", "unshare", "nsenter")
#: Without limits, control groups and registries, which sandboxes do not have.
_PODMAN = (
    *("podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"),
    "--runtime=crun",
)
_RUN = (
    *("run", "--rm", "--network=host", "--cgroups=disabled", "--log-driver=none"),
    *("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
)
_SETUP = """
set -e
mkdir -p /var/run/cdi
mount --bind "$1" /var/run/cdi
# crun knows the first and the second version of control groups, and no mixture.
mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified
echo ready
cat
"""


def why_not() -> str | None:
    """Why no container can be started here."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or not BUSYBOX.exists():
        return f"needs {', '.join(missing or ['busybox-static'])}"
    return None if os.geteuid() == 0 else "needs root"


def make_nodes(root: Path, nodes: Mapping[str, tuple[int, int]]) -> None:
    """Character devices below a root. Raises PermissionError where that is not allowed."""
    for path, numbers in nodes.items():
        where = root / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(where, stat.S_IFCHR | 0o666, os.makedev(*numbers))


@dataclass(frozen=True)
class Ended:
    status: int
    output: str
    errors: str


class ContainerHost:
    def __init__(self, folder: Path, namespace: int) -> None:
        self._folder = folder
        self._namespace = namespace

    async def run(self, devices: Sequence[str], *command: str) -> Ended:
        """Run a program of busybox in a container that gets these CDI devices."""
        root = self._folder / "image"
        (root / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(BUSYBOX, root / "bin/busybox")
        places = (f"--root={self._folder / 'store'}", f"--runroot={self._folder / 'run'}")
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--mount=/proc/{self._namespace}/ns/mnt", *_PODMAN, *places, *_RUN),
            *(f"--device={device}" for device in devices),
            *("--rootfs", str(root), "/bin/busybox", *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        return Ended(process.returncode or 0, output.decode(), errors.decode())


@contextlib.asynccontextmanager
async def container_host(folder: Path, specifications: Path) -> AsyncIterator[ContainerHost]:
    """`specifications` is the directory of CDI specifications, which exists."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--propagation=private", "sh", "-c", _SETUP, "sh"),
        str(specifications),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            errors = (await process.stderr.read()).decode()
            pytest.skip(f"no mount namespace: {errors}")
        yield ContainerHost(folder, process.pid)
    finally:
        process.stdin.close()
        await process.wait()
