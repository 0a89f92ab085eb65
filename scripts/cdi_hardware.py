#!/usr/bin/env python3
"""Run a CUDA program in a private root that has nothing of the driver but what a CDI specification
gives: its files, device nodes and environment. No container runtime and no hook has a part in it.

    mig-device-plugin cdi generate --kind gpu --output json --file /tmp/gpu.json
    python3 scripts/cdi_hardware.py /tmp/gpu.json 0
    python3 scripts/cdi_hardware.py /tmp/gpu.json 0 -- /usr/bin/nvidia-smi -L

Without a program it asks the CUDA driver API for its devices and writes and reads their memory.
With ``none`` as the device the root has the common files and nodes only: CUDA must find no device.

The root is a tmpfs with this Python, the libraries that it is linked with, and ordinary device
nodes; the rest comes by bind mounts in a mount namespace of its own. The program runs without the
capability to make device nodes, with which libcuda would make those that are missing. Needs root.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from plugin.driver.root import resolve

CUDA = r"""
import ctypes, sys

try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.exit(f"libcuda.so.1: {error}")

def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        sys.exit(f"{name}: {code} {(text.value or b'').decode()}")

version, count, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t(1 << 20)
call("cuInit", 0)
call("cuDriverGetVersion", ctypes.byref(version))
call("cuDeviceGetCount", ctypes.byref(count))
print(f"CUDA {version.value}, {count.value} devices")
for number in range(count.value):
    device, name, total = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    back = ctypes.create_string_buffer(16)
    call("cuDeviceGet", ctypes.byref(device), number)
    call("cuDeviceGetName", name, 100, device)
    call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
    call("cuMemAlloc_v2", ctypes.byref(memory), size)
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(7), size)
    call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(16))
    if back.raw != bytes([7]) * 16:
        sys.exit("the memory does not hold what was written")
    call("cuMemFree_v2", memory)
    call("cuCtxDestroy_v2", context)
    print(f"{number}: {name.value.decode()}, {total.value >> 20} MiB, written and read back")
"""

ORDINARY_NODES = ("null", "zero", "full", "random", "urandom")
MERGED = ("bin", "lib", "lib64", "sbin")
#: What no copy may bring along.
DRIVER = re.compile(r"/(libcuda|libnvidia|libnvcuvid|nvidia)[^/]*$")

_READ_ONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC = 1, 2, 4, 32, 4096, 16384
_DROP_FROM_BOUNDING_SET, _CAP_MKNOD = 24, 27
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str | None, flags: int) -> None:
    names = [None if text is None else os.fsencode(text) for text in (source, str(target), kind)]
    if _libc.mount(*names, ctypes.c_ulong(flags), None):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount {source} on {target}: {os.strerror(code)}")


def bind(source: str, root: Path, path: str, flags: int = 0) -> None:
    """Mount a file or folder of this machine into the root."""
    target = resolve(root, path)
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, None, _BIND | _REC)
    if flags:
        mount(source, target, None, _BIND | _REMOUNT | flags)


def linked(programs: Iterable[Path]) -> Iterator[str]:
    """The loader and the libraries that programs are linked with."""
    names = [str(program) for program in programs]
    printed = subprocess.run(["ldd", *names], capture_output=True, text=True, check=False).stdout
    for path in dict.fromkeys(re.findall(r"(?:=> |^\s)(/\S+) \(0x", printed, re.MULTILINE)):
        if not DRIVER.search(path):
            yield path


def c_library() -> Iterator[str]:
    """Every part of the C library: programs of the driver are linked with those that are empty
    since glibc 2.34.
    """
    for path in linked([Path(sys.executable).resolve()]):
        if Path(path).name.startswith("libc.so"):
            for part in ("c", "dl", "m", "pthread", "resolv", "rt", "util"):
                yield from map(str, Path(path).parent.glob(f"lib{part}.so.[0-9]"))


def fill(root: Path, program: str | None) -> None:
    """What an image has: Python and the program with their libraries; nothing of the driver."""
    (root / "usr").mkdir()
    for name in MERGED:
        if (Path("/") / name).is_symlink():
            (root / name).symlink_to((Path("/") / name).readlink())
            resolve(root, name).mkdir(parents=True, exist_ok=True)
    for name in ("proc", "tmp", "dev"):
        (root / name).mkdir()
    stdlib = sysconfig.get_paths()["stdlib"]
    python = os.path.realpath(sys.executable)
    programs = [Path(python), *Path(stdlib, "lib-dynload").glob("*.so")]
    if program is not None and not DRIVER.search(program):
        programs.append(Path(program))
    for path in (
        python,
        *([str(programs[-1])] if program else []),
        *linked(programs),
        *c_library(),
    ):
        target = resolve(root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    bind(stdlib, root, stdlib, _READ_ONLY)
    bind("/proc", root, "/proc")
    for name in ORDINARY_NODES:
        bind(f"/dev/{name}", root, f"/dev/{name}")


def apply(root: Path, edits: dict[str, Any]) -> Iterator[str]:
    """Do what the specification says; yields environment variables."""
    if edits.get("hooks"):
        sys.exit("the specification has hooks; generate it without --nvidia-cdi-hook-path")
    for node in edits.get("deviceNodes", ()):
        bind(node.get("hostPath", node["path"]), root, node["path"])
    for mount in edits.get("mounts", ()):
        bind(mount["hostPath"], root, mount["containerPath"], _READ_ONLY | _NOSUID | _NODEV)
    yield from edits.get("env", ())


def inside(root: Path, specification: str, device: str, command: list[str]) -> None:
    """In the namespace: make the root, and become the program in it."""
    text = Path(specification).read_text(encoding="utf-8")
    document = json.loads(re.sub(r"^#.*\n", "", text))
    edits = [document.get("containerEdits", {})]
    if device != "none":
        named = {each["name"]: each["containerEdits"] for each in document["devices"]}
        if device not in named:
            sys.exit(f"{specification} has no device {device}, but {', '.join(named)}")
        edits.append(named[device])
    mount("tmpfs", root, "tmpfs", _NOSUID)  # goes with the namespace, and so nothing is deleted
    fill(root, command[0] if command else None)
    environment = dict(each.split("=", 1) for edit in edits for each in apply(root, edit))
    environment |= {"PATH": "/usr/bin:/bin", "PYTHONHOME": sys.base_prefix}
    places = [path for place in ("dev", "usr") for path in (root / place).rglob("*")]
    found = sorted(str(path.relative_to(root)) for path in places if DRIVER.search(str(path)))
    print("of the driver in the root:", *found, sep="\n  ", flush=True)
    arguments = command or [os.path.realpath(sys.executable), "-c", CUDA]
    os.chroot(root)
    os.chdir("/")
    _libc.prctl(_DROP_FROM_BOUNDING_SET, _CAP_MKNOD, 0, 0, 0)
    os.execve(arguments[0], arguments, environment)  # noqa: S606


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("specification", help="a CDI specification as JSON")
    parser.add_argument("device", help="a device's name in it, or none")
    parser.add_argument("command", nargs="*", help="a program and its arguments, after --")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)  # for itself
    arguments = parser.parse_args()
    if arguments.root is not None:
        inside(arguments.root, arguments.specification, arguments.device, arguments.command)
    root = tempfile.mkdtemp(prefix="cdi-")
    try:
        unshare = ["unshare", "--mount", "--propagation=private", sys.executable, __file__]
        given = [arguments.specification, arguments.device, "--", *arguments.command]
        return subprocess.run([*unshare, f"--root={root}", *given], check=False).returncode
    finally:
        Path(root).rmdir()


if __name__ == "__main__":
    sys.exit(main())
