"""What the executor needs of others: who holds devices, what kubelet knows, who evicts, and whether
the driver can be asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from plugin.core.holders import Holdings
from plugin.core.inventory.geometry import Client
from plugin.core.inventory.model import Inventory
from plugin.core.partition.planner import InUse
from plugin.core.partition.tracks import shape
from plugin.core.partition.use import in_use
from plugin.core.release import describe
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverError, DriverUnavailable


class Evictor(Protocol):
    """Ends pods that hold devices in the way."""

    async def evict(self, pods: Collection[str]) -> str:
        """Ask for the eviction of these pods (``namespace/name``), once each; returns why some are
        not evicted, empty if all will be.
        """


async def nobody() -> None:
    """Nobody hands out devices here."""


async def all_told(generation: int) -> bool:
    """No kubelet has a list."""
    del generation
    return True


class Surroundings(Struct, frozen=True):
    """``ask`` asks kubelet who holds devices and returns what is known then; ``None`` where nobody
    can hold any. ``told`` waits until kubelet has the list of a generation, and says whether it
    has.
    """

    ask: Callable[[], Awaitable[Holdings | None]] = nobody
    told: Callable[[int], Awaitable[bool]] = all_told
    evictor: Evictor | None = None


async def ask_kubelet(
    settings: Settings, pods: Callable[[], Awaitable[Holdings]] | None
) -> Holdings | None:
    """Who holds devices; ``None`` where no pod can. `pods` asks kubelet; without, nobody knows."""
    if not _has_pods(settings):
        return None
    return await pods() if pods is not None else Holdings()


def _has_pods(settings: Settings) -> bool:
    """Not without a kubelet, which a simulated node may lack."""
    socket = settings.kubelet_socket
    return bool(socket) and not (settings.simulate and not Path(socket).exists())


def ask_clients(
    driver: Driver, gpu_uuids: Collection[str]
) -> tuple[Mapping[str, tuple[Client, ...]], dict[str, str]]:
    """Processes by GPU, and why those of others are not known. Blocks."""
    found: dict[str, tuple[Client, ...]] = {}
    unknown: dict[str, str] = {}
    for uuid in gpu_uuids:
        try:
            found[uuid] = driver.processes(uuid)
        except DriverError as error:
            unknown[uuid] = f"processes are not known: {error}"
    return found, unknown


async def who_uses(
    around: Surroundings,
    driver: Driver,
    worker: DriverWorker,
    inventory: Inventory,
    named: Collection[str],
) -> tuple[InUse, list[str]]:
    """Who uses the `named` GPUs and their devices, and what is not known of that."""
    gpus = [gpu.uuid for gpu in inventory.gpus if gpu.uuid in named]
    holdings = await around.ask()
    try:
        clients, unknown = await worker.call(ask_clients, driver, gpus)
    except DriverUnavailable as error:
        clients, unknown = {}, {"": f"processes are not known: {error}"}
    return in_use(inventory, holdings, clients), list(dict.fromkeys(unknown.values()))


def planned_from(snapshot: Snapshot) -> object:
    """What a plan depends on, besides who uses what."""
    return (
        snapshot.driver_error is None and snapshot.release is None,
        [(gpu.index, gpu.uuid, shape(gpu)) for gpu in snapshot.inventory.gpus],
        snapshot.inventory.unreadable,
        snapshot.settings.partition_mig_mode,
        snapshot.settings.partition_in_use,
    )


def out_of_reach(snapshot: Snapshot) -> str | None:
    """Why the driver cannot be asked now."""
    if snapshot.driver_error is not None:
        return snapshot.driver_error.text
    if snapshot.release is not None:
        return describe(snapshot.release, snapshot.inventory)
    return None if snapshot.generation else "not scanned yet"
