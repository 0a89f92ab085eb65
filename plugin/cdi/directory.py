"""The directory that container runtimes read CDI specifications from.

A specification of ours has a name that no other program uses and begins with a line that says whose
it is; nothing else is ever replaced or removed. One process writes them: who has the lock of the
directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from plugin.cdi.foreign import ForeignSpecifications
from plugin.config import atomic, bounded
from plugin.core.cdi.names import KINDS, file_name
from plugin.core.cdi.remains import remains
from plugin.core.cdi.specification import Document
from plugin.errors import SpecificationError
from plugin.state.lock import FolderLock

MARK = b"# Written by mig-device-plugin, which replaces it whenever devices change: do not edit.\n"
#: The largest that are read; one of a node with 16 GPUs has some 100 KiB.
MOST_BYTES = 4 * bounded.MEBIBYTE


def content(document: Document) -> bytes:
    """A file's content: JSON, which is YAML too and parsed faster, after the mark."""
    return MARK + json.dumps(document, indent=1).encode() + b"\n"


class SpecificationDirectory:
    """Used from one thread at a time; every method may block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._foreign = ForeignSpecifications(MOST_BYTES)
        self._lock: FolderLock | None = None
        #: Whether another process has the lock.
        self.is_anothers = False

    def close(self) -> None:
        """Leave the directory to the next process."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def kinds(self) -> frozenset[str]:
        """Those that have a file of this process, or of one before it."""
        self._claim()
        ours = {path.name for path in self._ours()} if not self.is_anothers else set()
        return frozenset(kind for kind in KINDS if file_name(kind) in ours)

    def bring_up_to_date(
        self,
        documents: Mapping[str, Document],
        devices: Mapping[str, list[Document]],
        wanted: Sequence[str] = (),
    ) -> Mapping[str, str]:
        """Have the documents of the `wanted` kinds in files of ours, and those of every kind that
        has a file already. From a file that cannot be written anew, everything disappears that is
        not among its kind's `devices`; at worst the file does.

        Returns by kind what could not be done.
        """
        try:
            if wanted and not self.path.is_dir():
                self.path.mkdir(mode=0o755)
            there = self.kinds()
        except OSError as error:
            return dict.fromkeys(wanted, self._failure(error))
        errors: dict[str, str] = {}
        for kind in (*wanted, *sorted(there.difference(wanted))):
            try:
                if kind in documents:
                    self._have(kind, documents[kind])
                else:
                    self._reduce(kind, devices.get(kind, []))
            except SpecificationError as error:
                errors[kind] = str(error)
            except OSError as error:
                errors[kind] = self._failure(error)
        return errors

    def refuse_others(self, kind: str, names: Iterable[str]) -> None:
        """Raises :class:`SpecificationError` where another program has the file of this kind, or
        one with a device of these names: where two files of one directory have a device of one
        name, runtimes resolve neither.
        """
        path = self.path / file_name(kind)
        if os.path.lexists(path) and not self._is_ours(path):
            raise SpecificationError(
                f"{path} was written by another program", "remove or rename it"
            )
        wanted = {f"{kind}={name}" for name in names}
        others = {*self.path.glob("*.json"), *self.path.glob("*.yaml")}.difference(self._ours())
        for path, devices in self._foreign.devices(sorted(others)).items():
            common = wanted & devices
            if common:
                raise SpecificationError(
                    f"{path}, which another program wrote, has {min(common)} too, and container "
                    "runtimes use neither then",
                    "remove that file, or choose other names with --cdi-vendor",
                )

    def remove(self, kinds: Iterable[str]) -> None:
        """Remove the files of these kinds. Raises OSError."""
        for kind in self.kinds().intersection(kinds):
            self._unlink(self.path / file_name(kind))

    def _failure(self, error: OSError) -> str:
        return (
            f"the CDI specification cannot be written to {self.path}: {error.strerror}; "
            "mount the directory writable, or name another one with --cdi-directory"
        )

    # ---- one kind

    def _have(self, kind: str, document: Document) -> None:
        path, wanted = self.path / file_name(kind), content(document)
        try:
            self.refuse_others(kind, [device["name"] for device in document["devices"]])
        except SpecificationError:
            if self._is_ours(path):
                self._unlink(path)  # with both, containers of that program find nothing either
            raise
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if bounded.read(path, MOST_BYTES) == wanted and mode == atomic.MODE:
                return
        if self.is_anothers:
            raise SpecificationError(
                f"another daemon writes its CDI specification to {self.path}, which has other "
                "devices",
                "run one daemon on a node, or name another directory with --cdi-directory",
            )
        try:
            if self._lock is not None:
                atomic.remove_leftovers(path)
            atomic.replace(path, wanted)
        except OSError:
            self._reduce(kind, document["devices"])
            raise

    def _reduce(self, kind: str, devices: list[Document]) -> None:
        """Have nothing but these devices in the file, with the least that has to work on disk."""
        path = self.path / file_name(kind)
        if self.is_anothers or not self._is_ours(path):
            return
        document = _document(path)
        left = remains(document, devices)
        if left is not None and left == document:
            return
        if left is not None:
            with contextlib.suppress(OSError):
                atomic.replace(path, content(left))
                return
        self._unlink(path)

    def _unlink(self, path: Path) -> None:
        if not self.is_anothers:
            path.unlink(missing_ok=True)

    # ---- whose it is

    def _claim(self) -> None:
        if self._lock is not None and self._lock.is_ours():
            return
        self.close()
        self.is_anothers = False
        try:
            self._lock = FolderLock(self.path)
        except BlockingIOError:
            self.is_anothers = True
        except OSError:
            pass  # not there, or of a file system without locks

    def devices(self) -> Mapping[str, frozenset[str]]:
        """By kind, the names of the devices in files of ours. Raises OSError, and ValueError for a
        file that is not as it was written.
        """
        found = {}
        for path in self._ours():
            try:
                document = json.loads(bounded.read(path, MOST_BYTES).removeprefix(MARK))
                names = frozenset(str(device["name"]) for device in document["devices"])
                found[str(document["kind"])] = names
            except (LookupError, TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{path} was changed by hand or is cut off") from error
        return found

    def _ours(self) -> list[Path]:
        paths = (self.path / file_name(kind) for kind in KINDS)
        return [path for path in paths if self._is_ours(path)]

    @staticmethod
    def _is_ours(path: Path) -> bool:
        """An empty file may be what is left of one after a power failure."""
        try:
            found = bounded.read(path, MOST_BYTES, follow=False)
        except OSError:
            return False
        return found.startswith(MARK) or not found


def _document(path: Path) -> object:
    try:
        return json.loads(bounded.read(path, MOST_BYTES, follow=False).removeprefix(MARK))
    except (OSError, ValueError, RecursionError):
        return None
