"""Brings the specification on disk up to date with an inventory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from plugin.cdi.directory import SpecificationDirectory
from plugin.cdi.finder import find_driver
from plugin.core.cdi.specification import (
    Document,
    Entry,
    documents,
    entries,
    missing_control_nodes,
)
from plugin.core.cdi.standing import Specified
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.driver.installation import Installation
from plugin.errors import SpecificationError

#: A file system that hangs must not keep the scans of the node waiting.
LONGEST_SECONDS = 5.0

#: The driver's installations in the order in which they count.
Installations = Callable[[Settings, Inventory], Sequence[Installation]]


def make_documents(
    found: Mapping[str, Entry],
    inventory: Inventory,
    settings: Settings,
    installations: Sequence[Installation],
) -> Mapping[str, Document]:
    """By kind, the documents with these devices. Raises :class:`SpecificationError`."""
    missing = missing_control_nodes(inventory)
    if missing:
        raise SpecificationError(
            f"the CDI specification needs {' and '.join(missing)}, which does not exist",
            "run nvidia-modprobe -u -c 0 on the host, which loads the module and makes the node",
        )
    files = find_driver(
        installations,
        inventory.driver_version,
        settings.nvidia_cdi_hook_path,
        [f"/{folder.lstrip('/')}" for folder in settings.library_folders],
    )
    return documents(found.values(), inventory.control_nodes, files, settings.host_dev_root)


class Specifier:
    """Used from the event loop, by one caller at a time; works in a thread."""

    def __init__(
        self,
        directory: Path,
        installations: Installations,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        self._directory = SpecificationDirectory(directory)
        self._installations = installations
        self._longest_seconds = longest_seconds
        self._running: asyncio.Task[Specified] | None = None

    async def __call__(self, inventory: Inventory, settings: Settings) -> Specified:
        """What is on disk afterwards; never raises."""
        # One that was given up may be writing yet.
        if self._running is not None and not await self._ends(self._running):
            return self._hangs(inventory, settings)
        self._running = asyncio.create_task(
            asyncio.to_thread(self.bring_up_to_date, inventory, settings)
        )
        if not await self._ends(self._running):
            return self._hangs(inventory, settings)
        return self._running.result()

    async def _ends(self, running: asyncio.Task[Specified]) -> bool:
        done, _ = await asyncio.wait({running}, timeout=self._longest_seconds)
        return bool(done)

    def bring_up_to_date(self, inventory: Inventory, settings: Settings) -> Specified:
        """The same, blocking."""
        wanted = entries(inventory, settings)
        try:
            made = (
                make_documents(
                    wanted, inventory, settings, self._installations(settings, inventory)
                )
                if wanted
                else {}
            )
            errors = self._directory.bring_up_to_date(made)
        except (SpecificationError, OSError) as error:
            return _failed(wanted, str(error))
        written = {uuid: entry for uuid, entry in wanted.items() if entry.kind not in errors}
        return Specified(MappingProxyType(written), MappingProxyType(dict(errors)))

    def _hangs(self, inventory: Inventory, settings: Settings) -> Specified:
        return _failed(
            entries(inventory, settings),
            f"the CDI specification is not written after {self._longest_seconds:g} s: a file "
            "system of the driver root or of the CDI directory does not answer",
        )


def _failed(wanted: Mapping[str, Entry], text: str) -> Specified:
    return Specified(errors=MappingProxyType({entry.kind: text for entry in wanted.values()}))
