"""Finds the files of the running driver that containers need for compute and utility."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

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
#: Names without the driver's version. So they are of the running driver only beside its libcuda.
_OF_NO_VERSION = {"libnvidia-nvvm70": re.compile(r"libnvidia-nvvm70\.so\.[0-9]+")}
_PROGRAMS = (
    *("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced"),
    *("nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
)
_PROGRAM_FOLDERS = (
    *("usr/bin", "usr/sbin", "bin", "usr/local/bin"),
    *("usr/local/nvidia/bin", "home/kubernetes/bin/nvidia/bin"),
    "run/current-system/sw/bin",
)
#: The library without which nothing is of use; the loader's cache knows its folder.
_FIRST = "libcuda.so"
_VERSION = re.compile(r"libcuda\.so\.([0-9]+(?:\.[0-9]+)+)")


class Hook(NamedTuple):
    """NVIDIA's hook program on the host, or why it cannot be used."""

    path: str = ""
    problem: str = ""


def find_driver(
    installations: Sequence[Installation], version: str = "", further: Sequence[str] = ()
) -> DriverFiles:
    """The files of the running driver, of `version` where that is known, in the first installation
    that has them. Libraries may be in `further` folders too.

    Raises :class:`SpecificationError`.
    """
    others: list[str] = []
    unfit: list[str] = []
    for installation in installations:
        listed = {folder: installation.names(folder) for folder in _folders(installation, further)}
        present = dict.fromkeys(
            match[1]
            for names in listed.values()
            for name in sorted(names)
            if (match := _VERSION.fullmatch(name))
        )
        for each in present:
            if each != (version or each):
                others.append(f"{_FIRST}.{each} below {installation.host_root}")
                continue
            found = _found(installation, listed, each)
            if found is not None:
                return found
            unfit.append(f"{_FIRST}.{each} below {installation.host_root}")
    if unfit:
        raise SpecificationError(
            f"the driver's libraries for the CDI specification: {' and '.join(unfit)} is no "
            "library of a machine that has NVIDIA GPUs",
            "install the driver again",
        )
    raise SpecificationError(
        f"the driver's libraries for the CDI specification: no {_FIRST}.{version or '<version>'}"
        + (f", only {', '.join(others)}" if others else ""),
        "mount the driver's root and name it with --driver-root and --driver-root-ctr-path; "
        "another version means that the driver is being upgraded",
    )


def find_hook(installations: Sequence[Installation], path: str) -> Hook:
    """Every container would fail with a hook that is not on the host; files work without."""
    if not path:
        return Hook()
    on_host = [each for each in installations if each.host_root == "/"]
    if not on_host:
        return Hook(
            problem=f"whether the host has {path} is not known: the driver root "
            f"{' or '.join(dict.fromkeys(each.host_root for each in installations))} is not the "
            "host's root"
        )
    if any(each.is_program(path) for each in on_host):
        return Hook(path)
    return Hook(problem=f"{path} is not on the host, or cannot be executed")


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
    installation: Installation, listed: Mapping[str, Collection[str]], version: str
) -> DriverFiles | None:
    """`listed` are names by folder. ``None`` without a libcuda of a machine that has NVIDIA
    GPUs.
    """
    libraries: dict[str, Library] = {}
    machine = ""

    def take(library: str, folder: str, name: str) -> bool:
        nonlocal machine
        path = installation.real(f"{folder}/{name}")
        headers = installation.shared_object(path) if path is not None else None
        # A root may have libraries of a second machine, such as 32 bits.
        if path is None or headers is None or headers.machine != (machine or headers.machine):
            return False
        machine = headers.machine
        libraries.setdefault(library, Library(path, headers.soname))
        return True

    first, *others = _LIBRARIES
    home = next((each for each in listed if take(first, each, f"{first}.so.{version}")), None)
    if home is None:
        return None
    for folder, names in listed.items():
        for library in others:
            if f"{library}.so.{version}" in names:
                take(library, folder, f"{library}.so.{version}")
    for library, pattern in _OF_NO_VERSION.items():
        for folder in dict.fromkeys((home, libraries[first].folder)):
            for name in filter(pattern.fullmatch, sorted(installation.names(folder))):
                take(library, folder, name)
    beside = f"{PurePosixPath(libraries[first].folder).parent}/bin".lstrip("/")
    return DriverFiles(
        installation.host_root,
        version,
        machine,
        tuple(libraries[name] for name in _LIBRARIES if name in libraries),
        tuple(_programs(installation, (beside, *_PROGRAM_FOLDERS))),
    )


def _programs(installation: Installation, folders: Iterable[str]) -> Iterator[Program]:
    listed = [(folder, installation.names(f"/{folder}")) for folder in folders]
    for name in _PROGRAMS:
        for folder, names in listed:
            path = installation.real(f"/{folder}/{name}") if name in names else None
            if path is not None:
                yield Program(name, path)
                break
