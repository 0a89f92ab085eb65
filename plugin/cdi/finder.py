"""Finds the files of the running driver that containers need for compute and utility."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from plugin.core.cdi.specification import DriverFiles, Library, Program
from plugin.driver import loader_cache
from plugin.driver.installation import Installation
from plugin.driver.root import FOLDERS
from plugin.errors import SpecificationError

#: Libraries by NVIDIA's capabilities ``compute`` and ``utility``; nothing of graphics, video or
#: display.
_LIBRARIES = (
    *("libcuda", "libcudadebugger", "libnvidia-ptxjitcompiler", "libnvidia-nvvm"),
    *("libnvidia-nvvm70", "libnvidia-gpucomp", "libnvidia-opencl", "libnvidia-fatbinaryloader"),
    *("libnvidia-allocator", "libnvidia-compiler", "libnvidia-pkcs11", "libnvidia-tileiras"),
    *("libnvidia-pkcs11-openssl3", "libnvidia-ml", "libnvidia-cfg", "libnvidia-nscq"),
)
_PROGRAMS = (
    *("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced"),
    *("nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
)
_PROGRAM_FOLDERS = (
    *("usr/bin", "usr/sbin", "bin", "usr/local/bin"),
    *("usr/local/nvidia/bin", "home/kubernetes/bin/nvidia/bin"),
)
#: The library without which nothing is of use; the loader's cache knows its folder.
_FIRST = "libcuda.so"
_VERSION = re.compile(r"libcuda\.so\.([0-9]+(?:\.[0-9]+)+)")


def find_driver(
    installations: Sequence[Installation],
    version: str = "",
    hook: str = "",
    further: Sequence[str] = (),
) -> DriverFiles:
    """The files of the running driver, of `version` where that is known, in the first installation
    that has them. Libraries may be in `further` folders too. `hook` is the host's path of NVIDIA's
    hook program, left out if it is not there.

    Raises :class:`SpecificationError` when there are none.
    """
    others: list[str] = []
    for installation in installations:
        folders = list(dict.fromkeys(_folders(installation, further)))
        present = dict.fromkeys(
            match[1]
            for folder in folders
            for name in sorted(installation.names(folder))
            if (match := _VERSION.fullmatch(name))
        )
        chosen = version or next(iter(present), "")
        if chosen in present:
            return _found(installation, folders, chosen, _hook(installations, hook))
        others += [f"{_FIRST}.{other} below {installation.host_root}" for other in present]
    raise SpecificationError(
        f"the driver's libraries for the CDI specification: no {_FIRST}.{version or '<version>'}"
        + (f", only {', '.join(others)}" if others else ""),
        "mount the driver's root and name it with --driver-root and --driver-root-ctr-path; "
        "another version means that the driver is being upgraded",
    )


def _folders(installation: Installation, further: Iterable[str]) -> Iterator[str]:
    """Where libraries may be: in folders that were named, where the loader of that root finds
    libcuda, then in known folders.
    """
    yield from further
    for name, path in loader_cache.paths(installation.loader_cache()):
        if name.startswith(_FIRST):
            yield str(PurePosixPath(path).parent)
            real = installation.real(path)
            if real is not None:
                yield str(PurePosixPath(real).parent)
    yield from (f"/{folder}" for folder in FOLDERS)


def _found(
    installation: Installation, folders: Iterable[str], version: str, hook: str
) -> DriverFiles:
    libraries: dict[str, Library] = {}
    machine = ""
    for folder in folders:
        names = installation.names(folder)
        for library in _LIBRARIES:
            name = f"{library}.so.{version}"
            path = installation.real(f"{folder}/{name}") if name in names else None
            headers = installation.shared_object(path) if path is not None else None
            # A root may have libraries of a second machine, such as 32 bits.
            if path is None or headers is None or (machine and headers.machine != machine):
                continue
            if name.startswith(_FIRST):
                machine = machine or headers.machine
            if headers.machine == (machine or headers.machine):
                libraries.setdefault(library, Library(path, headers.soname))
    if "libcuda" not in libraries:
        raise SpecificationError(
            f"the driver's libraries for the CDI specification: {_FIRST}.{version} below "
            f"{installation.host_root} is no library of a machine that has NVIDIA GPUs",
            "install the driver again",
        )
    beside = f"{PurePosixPath(libraries['libcuda'].folder).parent}/bin".lstrip("/")
    return DriverFiles(
        installation.host_root,
        version,
        machine,
        tuple(libraries[name] for name in _LIBRARIES if name in libraries),
        tuple(_programs(installation, (beside, *_PROGRAM_FOLDERS))),
        hook,
    )


def _programs(installation: Installation, folders: Iterable[str]) -> Iterator[Program]:
    listed = [(folder, installation.names(f"/{folder}")) for folder in folders]
    for name in _PROGRAMS:
        for folder, names in listed:
            path = installation.real(f"/{folder}/{name}") if name in names else None
            if path is not None:
                yield Program(name, path)
                break


def _hook(installations: Iterable[Installation], hook: str) -> str:
    """Every container would fail with a hook that is not on the host; files work without."""
    on_host = (each for each in installations if each.host_root == "/")
    return hook if hook and any(each.real(hook) for each in on_host) else ""
