"""Finding and loading libnvidia-ml, and turning its errors into ours."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pynvml

from plugin.errors import DriverCallFailed, DriverMismatch, DriverUnavailable, PluginError

LIBRARY = "libnvidia-ml.so.1"

#: Where distributions, driver containers and Google's nodes keep the library, below a driver root.
_FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib",
    "usr/local/nvidia/lib64",
    "home/kubernetes/bin/nvidia/lib64",
)

#: As many as Linux follows.
_MOST_LINKS = 40

#: Codes by which any question about a GPU answers that the GPU is lost.
LOST = frozenset(
    {
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
        pynvml.NVML_ERROR_RESET_REQUIRED,
    }
)
_NO_ANSWER = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
    }
)

#: In place of a code of NVML where its answer could not be read.
UNREADABLE_ANSWER = -1

#: What to do about an initialisation that failed.
_FIXES = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the kernel module is not loaded: is the driver "
    "installed on this node?",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module differ in version: "
    "finish the driver upgrade (reload the module or reboot), and check which driver root is "
    "mounted",
    pynvml.NVML_ERROR_NO_PERMISSION: "this process may not open the device nodes: run it "
    "privileged or under NVIDIA's runtime class",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the library is older than this plugin needs",
}
#: What grants the rights that a reading may take.
_NO_PERMISSION_FIX = (
    "this process lacks the right to read it: run it privileged, or under NVIDIA's runtime class "
    "with SYS_ADMIN and NVIDIA_MIG_MONITOR_DEVICES=all"
)
_KERNEL_LOG = "see the kernel log (dmesg) for NVRM messages"

P = ParamSpec("P")
T = TypeVar("T")


def find_library(roots: Iterable[Path]) -> Path | None:
    """The first real library file below `roots`; links are followed inside their own root."""
    for root in roots:
        for folder in _FOLDERS:
            try:
                path = _resolve(root, f"{folder}/{LIBRARY}")
                if path.is_file():
                    return path
            except OSError:
                continue  # a loop, or a folder that we may not read
    return None


def _resolve(root: Path, path: str) -> Path:
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


def load(path: Path | None) -> object:
    """Load the library at `path`, or the one the loader finds. Raises
    :class:`DriverUnavailable`.
    """
    try:
        return ctypes.CDLL(str(path) if path is not None else LIBRARY)
    except OSError as error:
        if path is None and (late := _on_the_loaders_path()) is not None:
            return load(late)
        where = f"from {path}" if path is not None else "on the loader's path"
        raise DriverUnavailable(
            f"cannot load {LIBRARY} {where}: {error}",
            "install the NVIDIA driver, run under NVIDIA's runtime class, or mount the driver root "
            "and name it with --driver-root / --driver-root-ctr-path (--simulate runs without a "
            "GPU)",
        ) from error


def _on_the_loaders_path() -> Path | None:
    """Look through ``LD_LIBRARY_PATH`` ourselves: the loader never looks again into a folder that
    it once missed.

    Such a folder appears when the driver is installed while we wait for it.
    """
    folders = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    return next((path for folder in folders if (path := Path(folder, LIBRARY)).is_file()), None)


def initialise() -> None:
    """Initialise the library in use. Raises :class:`DriverUnavailable`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        mismatch = error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        kind = DriverMismatch if mismatch else DriverUnavailable
        fix = _FIXES.get(error.value, _KERNEL_LOG)
        raise kind(f"initialising NVML failed: {error}", fix) from error


def shut_down() -> None:
    """Shut the library in use down; never raises."""
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return  # nothing was initialised, or the driver went away first: closed is closed


def call(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call NVML; its error becomes a :class:`DriverCallFailed` that says `what` was being read.

    So does any exception of the bindings, which have their own for an answer that they cannot read.
    """
    try:
        return function(*args, **kwargs)
    except pynvml.NVMLError as error:
        raise failed(what, error) from error
    except PluginError:
        raise
    except Exception as error:
        raise unreadable(what, error) from error


def ask(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call NVML for something a card or a driver may not have; ``None`` then, or when it may not be
    read.
    """
    try:
        return function(*args, **kwargs)
    except pynvml.NVMLError as error:
        if error.value in _NO_ANSWER:
            return None
        raise failed(getattr(function, "__name__", "NVML"), error) from error
    except PluginError:
        raise
    except Exception as error:
        raise unreadable(getattr(function, "__name__", "NVML"), error) from error


def unreadable(what: str, error: Exception) -> DriverCallFailed:
    """NVML answered, and its bindings could not read that: text that is not UTF-8, for instance."""
    kind = type(error).__name__
    return DriverCallFailed(f"{what}: unreadable answer ({kind}: {error})", code=UNREADABLE_ANSWER)


def absurd(what: str, answer: str) -> DriverCallFailed:
    """NVML answered with what no hardware can have."""
    return DriverCallFailed(f"{what}: impossible answer ({answer})", code=UNREADABLE_ANSWER)


def failed(what: str, error: Any) -> DriverCallFailed:
    code = error.value
    fix = _NO_PERMISSION_FIX if code == pynvml.NVML_ERROR_NO_PERMISSION else ""
    return DriverCallFailed(f"{what}: {error}", fix, code=code, gpu_lost=code in LOST)


def no_answer(error: DriverCallFailed) -> DriverUnavailable:
    """A failed call without which nothing else can be asked."""
    return DriverUnavailable(f"{error.what}; the NVIDIA driver does not answer", _KERNEL_LOG)
