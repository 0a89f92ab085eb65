"""Brings the specification on disk up to date with an inventory.

Containers of a pod are started by the names that the pod was given once, be the settings others by
now. So a kind that has a file of ours is kept up to date whatever the settings are, and wherever a
former configuration had it; and whatever fails, no file keeps a device that is gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from msgspec.structs import replace

from plugin.cdi.directory import SpecificationDirectory
from plugin.cdi.finder import find_driver, find_hook
from plugin.cdi.record import Record
from plugin.core.cdi.names import kinds
from plugin.core.cdi.specification import (
    Document,
    Entry,
    devices,
    documents,
    entries,
    entries_by_kind,
    missing_control_nodes,
)
from plugin.core.cdi.standing import Specified
from plugin.core.dev_root import host_dev_root
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.driver.installation import Installation
from plugin.errors import SpecificationError
from plugin.loops.aside import Aside

log = logging.getLogger(__name__)

#: A file system that hangs must not keep the scans of the node waiting.
LONGEST_SECONDS = 5.0

HOOK_FIX = "name a program of the host with --nvidia-cdi-hook-path, or none"

#: The driver's installations in the order in which they count.
Installations = Callable[[Settings, Inventory], Sequence[Installation]]


def make_documents(
    found: Iterable[Entry],
    inventory: Inventory,
    settings: Settings,
    installations: Sequence[Installation],
) -> tuple[Mapping[str, Document], str]:
    """By kind, the documents with these devices; and why NVIDIA's hooks are not used though they
    are chosen. Raises :class:`SpecificationError`.
    """
    missing = missing_control_nodes(inventory)
    if missing:
        raise SpecificationError(
            f"the CDI specification needs {' and '.join(missing)}, which does not exist",
            "run nvidia-modprobe -u -c 0 on the host, which loads the module and makes the node",
        )
    files = find_driver(
        installations,
        inventory.driver_version,
        [f"/{folder.lstrip('/')}" for folder in settings.library_folders],
    )
    hook = find_hook(installations, settings.nvidia_cdi_hook_path)
    files = replace(files, hook=hook.path)
    made = documents(found, inventory.control_nodes, files, host_dev_root(inventory, settings))
    return made, hook.problem


class Specifier:
    """Used from the event loop, by one caller at a time; works in a thread."""

    def __init__(
        self,
        directory: Path,
        record: Path,
        installations: Installations,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        """`record` is where the directories are kept that have files of ours."""
        self._directory = SpecificationDirectory(directory)
        self._record = Record(record)
        self._recorded: tuple[Path, ...] | None = None
        self._formers: Mapping[Path, SpecificationDirectory] = {}
        self._installations = installations
        self._longest_seconds = longest_seconds
        self._aside = Aside("CDI specification", longest_seconds)
        self._warned: set[str] = set()

    async def __call__(self, inventory: Inventory, settings: Settings) -> Specified | None:
        """What is on disk afterwards, ``None`` if there is nothing and nothing is wanted; never
        raises.
        """
        try:
            return await self._aside.call(lambda: self.bring_up_to_date(inventory, settings))
        except TimeoutError:
            text = (
                f"the CDI specification is not written after {self._longest_seconds:g} s: a file "
                "system of the driver root or of the CDI directory does not answer"
            )
            return _failed(kinds(settings.cdi_vendor), text)

    def bring_up_to_date(self, inventory: Inventory, settings: Settings) -> Specified | None:
        """The same, blocking."""
        wanted = entries(inventory, settings) if settings.by_cdi else {}
        wanted_kinds = tuple(dict.fromkeys(entry.kind for entry in wanted.values()))
        self._remember(wanted_kinds)
        there = entries_by_kind(inventory, settings)
        dev_root = host_dev_root(inventory, settings)
        named = {kind: devices(found, dev_root) for kind, found in there.items()}
        kept = {*wanted_kinds, *(kind for each in self._places() for kind in each.kinds())}
        listed = [entry for kind, found in there.items() if kind in kept for entry in found]
        made: Mapping[str, Document] = {}
        failed: dict[str, str] = {}
        try:
            if listed:
                installations = self._installations(settings, inventory)
                made, problem = make_documents(listed, inventory, settings, installations)
                if problem:
                    self._warn("NVIDIA's hooks are not used", reason=problem, fix=HOOK_FIX)
        except (SpecificationError, OSError) as error:
            failed = {entry.kind: str(error) for entry in listed}
        errors = {**self._directory.bring_up_to_date(made, named, wanted_kinds), **failed}
        done = [kind for kind in wanted_kinds if kind not in errors]
        self._bring_formers_up_to_date(made, named, done)
        self._forget(has_here=bool(wanted_kinds))
        if not (settings.by_cdi or errors or self._recorded is None or self._is_left()):
            return None
        written = {uuid: entry for uuid, entry in wanted.items() if entry.kind not in errors}
        return Specified(MappingProxyType(written), MappingProxyType(errors))

    def close(self) -> None:
        """Leave the directories to the next process."""
        for each in (self._directory, *self._formers.values()):
            each.close()

    # ---- directories of former configurations

    def _places(self) -> Sequence[SpecificationDirectory]:
        return self._directory, *self._formers.values()

    def _is_left(self) -> bool:
        """Whether there are files of ours, or may be."""
        return bool(self._recorded) or any(
            each.kinds() or each.is_anothers for each in self._places()
        )

    def _remember(self, wanted: Sequence[str]) -> None:
        """Find out where there may be files of ours, and record where there will be."""
        here = self._directory.path
        try:
            if self._recorded is None:
                self._recorded = self._record.read()
                self._formers = {
                    path: SpecificationDirectory(path) for path in self._recorded if path != here
                }
            if wanted and here not in self._recorded:
                self._write_record((*self._recorded, here))
        except OSError as error:
            self._complain_of_record(error)

    def _write_record(self, directories: tuple[Path, ...]) -> None:
        self._record.write(directories)
        self._recorded = directories

    def _bring_formers_up_to_date(
        self,
        made: Mapping[str, Document],
        named: Mapping[str, list[Document]],
        written: Sequence[str],
    ) -> None:
        """What was `written` is not needed there any more; the rest is kept as long as it is."""
        for former in self._formers.values():
            try:
                former.remove(written)
                for reason in former.bring_up_to_date(made, named).values():
                    self._warn("a former CDI specification is not up to date", reason=reason)
            except OSError as error:
                self._warn("a former CDI specification is not up to date", reason=str(error))

    def _forget(self, *, has_here: bool) -> None:
        """Directories that have no file of ours any more."""
        kept = []
        for each in self._places():
            if each.path not in (self._recorded or ()):
                continue
            is_used = each.is_anothers or (has_here and each is self._directory)
            if each.kinds() or is_used:
                kept.append(each.path)
            elif not os.path.isdir(each.path):  # noqa: PTH112 — false also where we may not look
                kept.append(each.path)
                self._warn(
                    "CDI specifications of a former configuration may be left",
                    directory=str(each.path),
                    reason="the directory is not there, or not mounted in this container",
                    fix="once no pod uses CDI from there, delete its mig-device-plugin-*.yaml on "
                    f"the node and then {self._record.path}",
                )
        if self._recorded is not None and set(kept) != set(self._recorded):
            try:
                self._write_record(tuple(kept))
            except OSError as error:
                self._complain_of_record(error)
                return
            for path in self._formers.keys() - set(kept):
                self._formers[path].close()
            self._formers = {path: each for path, each in self._formers.items() if path in kept}

    def _complain_of_record(self, error: OSError) -> None:
        self._warn(
            "the directory of the CDI specification cannot be recorded",
            reason=str(error),
            fix="have --ledger-file in a directory that can be written",
        )

    def _warn(self, message: str, **extra: str) -> None:
        """Once."""
        key = f"{message} {extra}"
        if key not in self._warned:
            self._warned.add(key)
            log.warning(message, extra=extra)


def _failed(of_kinds: Iterable[str], text: str) -> Specified:
    return Specified(errors=MappingProxyType(dict.fromkeys(of_kinds, text)))
