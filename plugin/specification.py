"""The CDI specification as the settings want it: which driver installation it is of, and where it
is written. The daemon imports what that needs with the first use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plugin.core.cdi.names import KINDS, file_name
from plugin.core.cdi.standing import Specified
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.loops.aside import Aside

if TYPE_CHECKING:
    from plugin.cdi.specifier import Specifier
    from plugin.driver.installation import Installation

DEFAULT_DIRECTORY = "/var/run/cdi"
#: Beside the ledger: the directories that have files of ours.
RECORD = "cdi-directories"
#: For one look at the directory, which may be on a file system that hangs.
LOOK_SECONDS = 5.0


def directory(settings: Settings, ledger: Path) -> Path:
    """Where the specification is written; a simulated node's is no business of this machine's
    container runtime.
    """
    if settings.simulate and not settings.cdi_directory:
        return ledger.parent / "cdi"
    return Path(settings.cdi_directory or DEFAULT_DIRECTORY)


def installations(settings: Settings, inventory: Inventory) -> Sequence[Installation]:
    """Where the driver's files may be, in the order in which they count."""
    if settings.simulate:
        from plugin.sim.driver_files import SimInstallation  # noqa: PLC0415 — for a simulation only

        return (SimInstallation(inventory.driver_version, settings.driver_root),)
    from plugin.driver.installation import DiskInstallation  # noqa: PLC0415 — not needed without CDI

    # The first is the driver root where it is mounted in our container, the second is the same root
    # for a process on the host itself.
    roots = dict.fromkeys((settings.container_driver_root, settings.driver_root))
    return tuple(DiskInstallation(Path(root), settings.driver_root) for root in roots)


class Specification:
    """Writes the specification into a directory. Imports nothing for it as long as containers do
    not use CDI and nothing is left of an earlier time when they did.
    """

    def __init__(self, directory: Path, ledger: Path) -> None:
        self._directory = directory
        self._record = ledger.with_name(RECORD)
        self._aside = Aside("CDI directory", LOOK_SECONDS)
        self._specifier: Specifier | None = None

    async def __call__(self, inventory: Inventory, settings: Settings) -> Specified | None:
        """Bring it up to date; see :class:`plugin.cdi.specifier.Specifier`. ``None`` where there is
        none, and none is wanted: nobody else writes files of ours.
        """
        if not settings.by_cdi and self._specifier is None:
            try:
                if not await self._aside.call(self._look):
                    return None
            except OSError:  # or TimeoutError
                return Specified()
        if self._specifier is None:
            from plugin.cdi.specifier import Specifier  # noqa: PLC0415 — not needed without CDI

            self._specifier = Specifier(self._directory, self._record, installations)
        return await self._specifier(inventory, settings)

    def _look(self) -> bool:
        if os.path.lexists(self._record):
            return True
        try:
            names = {path.name for path in self._directory.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not names.isdisjoint(map(file_name, KINDS))

    def close(self) -> None:
        """Leave the directory to another daemon; the end of the process does so too."""
        if self._specifier is not None:
            self._specifier.close()
