"""Finding and loading libnvidia-ml, and noticing that another one has come."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from plugin.driver.nvml.elf import missing_bytes
from plugin.driver.root import FOLDERS, resolve
from plugin.errors import DriverReplaced, DriverUnavailable

LIBRARY = "libnvidia-ml.so.1"

#: A file as it was: device, inode, size, time of change.
_Stamp = tuple[int, int, int, int]


class Loader:
    """Loads the library: the first below `roots`, else the dynamic loader's choice."""

    def __init__(self, roots: Sequence[Path] = (), folders: Sequence[str] = ()) -> None:
        """`folders` of each root are searched before :data:`FOLDERS`."""
        self._roots = roots
        self._folders = (*(folder.lstrip("/") for folder in folders), *FOLDERS)
        #: The file that was loaded, as far as known.
        self.path: Path | None = None
        self._stamp: _Stamp | None = None

    @property
    def is_final(self) -> bool:
        """Whether this process will never see another library than it does now.

        That is so in a container into which NVIDIA's runtime put the library when it was made, or
        did not. Below a folder of the host that is mounted here, it can come and change at any
        time.
        """
        mounted = any(_has_something(root) for root in self._roots if root != Path("/"))
        return not mounted and not any(map(_is_mounted, _loaders_folders()))

    def load(self) -> object:
        """Load it. Raises :class:`DriverUnavailable`."""
        found = find_library(self._roots, self._folders)
        path = found or self._on_the_loaders_path()
        _require_whole(path)
        name = str(found) if found is not None else LIBRARY
        try:
            # The loader never looks again into a folder that it once missed. Such a folder appears
            # when the driver is installed while we wait for it.
            library = _load((name, str(path)) if path is not None else (name,))
        except OSError as error:
            raise DriverUnavailable(
                f"cannot load {LIBRARY} from {path}: {error}"
                if path is not None
                else self._not_found(),
                "install the NVIDIA driver, run under NVIDIA's runtime class, or mount the driver "
                "root and name it with --driver-root / --driver-root-ctr-path, a further folder "
                "below it with --library-folders (--simulate runs without a GPU)",
                final=self.is_final,
            ) from error
        self.path, self._stamp = path, _stamp(path)
        return library

    def has_changed(self) -> bool:
        """Whether another library than the loaded one would be loaded now.

        Raises :class:`DriverReplaced` when it has the same name, by which the dynamic loader would
        take the old one again.
        """
        path = find_library(self._roots, self._folders) or self._on_the_loaders_path()
        if path is None or _stamp(path) in {None, self._stamp}:
            return False
        if path == self.path:
            raise DriverReplaced(
                f"{path} was replaced", "ending, so that a new process loads the new library"
            )
        return True

    def _on_the_loaders_path(self) -> Path | None:
        """The dynamic loader's choice, as far as looking tells: in ``LD_LIBRARY_PATH``, then in the
        folders of distributions.
        """
        folders = _loaders_folders()
        named = next((path for folder in folders if (path := folder / LIBRARY).is_file()), None)
        return named or find_library([Path("/")], self._folders)

    def _not_found(self) -> str:
        roots = dict.fromkeys((*map(str, self._roots), "/"))
        loaders = "".join(f", {folder}" for folder in _loaders_folders())
        return (
            f"cannot load {LIBRARY}: it is not on the dynamic loader's path{loaders}, nor below "
            f"{' or '.join(roots)} in {', '.join(self._folders)}"
        )


def _load(names: Iterable[str]) -> object:
    """The first of these that can be loaded. Raises the error of the last."""
    error: OSError | None = None
    for name in dict.fromkeys(names):
        try:
            return ctypes.CDLL(name)
        except OSError as failed:
            error = error or failed
    raise error or OSError(errno.ENOENT, "no name to load", LIBRARY)


def _require_whole(path: Path | None) -> None:
    try:
        missing = missing_bytes(path) if path is not None else 0
    except OSError:
        return  # the loader says why it cannot be read
    if missing:
        raise DriverUnavailable(
            f"cannot load {path}: the file is cut off, {missing} bytes are missing at its end",
            "if the driver is not being installed just now, install it again",
        )


def find_library(roots: Iterable[Path], folders: Sequence[str] = FOLDERS) -> Path | None:
    """The first real library file in `folders` of `roots`; links are followed inside their own
    root.
    """
    for root in roots:
        for folder in folders:
            try:
                path = resolve(root, f"{folder}/{LIBRARY}")
                if path.is_file():
                    return path
            except OSError:
                continue  # a loop, or a folder that we may not read
    return None


def _loaders_folders() -> list[Path]:
    """Where the dynamic loader looks first."""
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return [Path(folder) for folder in folders if folder]


def _stamp(path: Path | None) -> _Stamp | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    if status is None:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _has_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _is_mounted(folder: Path) -> bool:
    """Whether a folder is, or lies in, something mounted that is not the root."""
    return any(os.path.ismount(at) for at in (folder, *folder.parents) if at != Path("/"))
