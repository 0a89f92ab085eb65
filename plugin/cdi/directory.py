"""The directory that container runtimes read CDI specifications from.

A specification of ours has a name that no other program uses and begins with a line that says whose
it is; nothing else is ever replaced or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from plugin.config import atomic, bounded
from plugin.core.cdi.names import file_name
from plugin.core.cdi.specification import Document
from plugin.errors import SpecificationError

MARK = b"# Written by mig-device-plugin, which replaces it whenever devices change: do not edit.\n"
#: The largest that are read; one of a node with 16 GPUs has some 100 KiB.
MOST_BYTES = 4 * bounded.MEBIBYTE

_OURS = "mig-device-plugin-*.yaml"
_KIND = re.compile(rb"""^\s*[{]?\s*["']?kind["']?\s*:\s*["']?([\w.-]+/[\w.-]+)""", re.MULTILINE)
_INLINE_KIND = re.compile(rb"""[{,]\s*"kind"\s*:\s*"([\w.-]+/[\w.-]+)\"""")


def content(document: Document) -> bytes:
    """A file's content: JSON, which is YAML too and parsed faster, after the mark."""
    return MARK + json.dumps(document, indent=1).encode() + b"\n"


class SpecificationDirectory:
    """Used from one thread at a time; every method may block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def bring_up_to_date(self, documents: Mapping[str, Document]) -> Mapping[str, str]:
        """Have exactly these documents, by kind, in files of ours; writes only what differs.

        Returns by kind what could not be done.
        """
        errors: dict[str, str] = {}
        for kind, document in documents.items():
            try:
                self.refuse_others(kind)
                self._write(self._path / file_name(kind), content(document))
            except SpecificationError as error:
                errors[kind] = str(error)
            except OSError as error:
                errors[kind] = (
                    f"the CDI specification cannot be written to {self._path}: {error.strerror}; "
                    "mount the directory writable, or name another one with --cdi-directory"
                )
        kept = {file_name(kind) for kind in documents}
        for path in self._ours():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        return errors

    def _write(self, path: Path, wanted: bytes) -> None:
        if not self._path.is_dir():
            self._path.mkdir(mode=0o755)
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if bounded.read(path, MOST_BYTES) == wanted and mode == atomic.MODE:
                return
        atomic.remove_leftovers(path)
        atomic.replace(path, wanted)

    def refuse_others(self, kind: str) -> None:
        """Raises :class:`SpecificationError` where another program has the file of this kind, or
        one with the same devices: where two files of one directory have a device of one name,
        runtimes resolve neither.
        """
        path = self._path / file_name(kind)
        if os.path.lexists(path) and not self._is_ours(path):
            raise SpecificationError(
                f"{path} was written by another program", "remove or rename it"
            )
        for path in self._others():
            try:
                text = bounded.read(path, MOST_BYTES)
            except OSError:
                continue  # runtimes cannot read it either
            found = (*_KIND.findall(text), *_INLINE_KIND.findall(text))
            if kind.encode() in found:
                raise SpecificationError(
                    f"{path}, which another program wrote, has devices of kind {kind} too, and "
                    "container runtimes use neither then",
                    "remove that file, or choose other names with --cdi-vendor",
                )

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

    def _others(self) -> Iterator[Path]:
        ours = set(self._ours())
        for path in sorted((*self._path.glob("*.json"), *self._path.glob("*.yaml"))):
            if path not in ours:
                yield path

    def _ours(self) -> list[Path]:
        return [path for path in self._path.glob(_OURS) if self._is_ours(path)]

    @staticmethod
    def _is_ours(path: Path) -> bool:
        try:
            return bounded.read(path, MOST_BYTES, follow=False).startswith(MARK)
        except OSError:
            return False
