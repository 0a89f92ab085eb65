"""The CDI specification as the settings want it: which driver installation it is of, and where it
is written. The daemon imports what that needs with the first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plugin.core.cdi.standing import Specified
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.state.gate import Specify

if TYPE_CHECKING:
    from plugin.cdi.specifier import Specifier
    from plugin.driver.installation import Installation

DEFAULT_DIRECTORY = "/var/run/cdi"


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
    from plugin.driver.installation import Disk  # noqa: PLC0415 — not needed without CDI

    # The first is the driver root where it is mounted in our container, the second is the same root
    # for a process on the host itself.
    roots = dict.fromkeys((settings.container_driver_root, settings.driver_root))
    return tuple(Disk(Path(root), settings.driver_root) for root in roots)


def specifying(directory: Path) -> Specify:
    """Writes the specification into this directory."""
    specifier: Specifier | None = None

    async def specify(inventory: Inventory, settings: Settings) -> Specified:
        nonlocal specifier
        if specifier is None:
            from plugin.cdi.specifier import Specifier  # noqa: PLC0415 — not needed without CDI

            specifier = Specifier(directory, installations)
        return await specifier(inventory, settings)

    return specify
