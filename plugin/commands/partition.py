"""``partition``: what a MIG configuration would change, whether it is applied, and the present one
as a file. Read-only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import yaml
from msgspec import Struct

from plugin.assembly import build_driver
from plugin.commands import partition_pictures as pictures
from plugin.commands.look import look, look_and
from plugin.commands.partition_given import named_by
from plugin.commands.partition_holders import asking, warning
from plugin.commands.terminal import console
from plugin.config import mig_configs
from plugin.control.client import ask
from plugin.core.holders import Holdings
from plugin.core.inventory.geometry import Client, ProfileOffer
from plugin.core.inventory.model import Inventory
from plugin.core.partition.comparison import Exported, differences, document, export
from plugin.core.partition.configuration import Resolved, resolve
from plugin.core.partition.node import Action, NodePlan, plan_node
from plugin.core.partition.planner import InUse
from plugin.core.partition.policy import Policy
from plugin.core.partition.use import in_use
from plugin.core.partition.usual import Offers, named
from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.errors import DriverCallFailed, NotRunning
from plugin.partition.surroundings import ask_clients

#: Exit statuses: done as asked, or not.
YES, NO = 0, 1


class Seen(Struct, frozen=True):
    """One look at the node: ``clients`` are the processes of each GPU. ``notes`` say what could not
    be found out.
    """

    inventory: Inventory
    offers: Offers
    clients: Mapping[str, tuple[Client, ...]]
    notes: tuple[str, ...] = ()


class Source(Struct, frozen=True):
    """The node to look at. ``pods``: whether pods can hold its devices."""

    settings: Settings
    driver: Callable[[], Driver]
    pods: bool = True

    def holdings(self) -> Holdings | None:
        """Blocks."""

        async def ask() -> Holdings | None:
            return await asking(self.settings)()

        return asyncio.run(ask()) if self.pods else None


def source(settings: Settings, *, simulate: bool) -> Source:
    """With `simulate`, the node that the command line names, which has no pods. The simulated node
    of a running daemon is as its state shows it, without its processes.
    """
    status = None if simulate or not settings.simulate else _status(settings)
    if status is None:
        pods = not settings.simulate
        return Source(settings, lambda: build_driver(settings)[0], pods)

    def as_recorded() -> Driver:
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as recording:
            json.dump(status, recording)
            recording.flush()
            return build_driver(replace(settings, simulate=recording.name))[0]

    return Source(settings, as_recorded)


def _status(settings: Settings) -> object:
    if not settings.control_socket:
        return None
    try:
        return ask(settings.control_socket, "status")
    except NotRunning:
        return None


def see(driver: Driver) -> Seen:
    """Raises :class:`~plugin.errors.DriverUnavailable`."""

    def ask(
        inventory: Inventory,
    ) -> tuple[Offers, Mapping[str, tuple[Client, ...]], list[str]]:
        offers: dict[str, Sequence[ProfileOffer]] = {}
        notes: list[str] = []
        for gpu in inventory.gpus:
            if gpu.mig is None and gpu.mig_certain:
                continue
            try:
                offers[gpu.uuid] = driver.profiles(gpu.uuid)
            except DriverCallFailed as error:
                notes.append(f"GPU {gpu.index}: {error}")
        clients, unknown = ask_clients(driver, [gpu.uuid for gpu in inventory.gpus])
        return offers, clients, [*notes, *dict.fromkeys(unknown.values())]

    inventory, (offers, clients, notes) = look_and(driver, ask)
    return Seen(inventory, offers, clients, tuple(notes))


def plan(at: Source, name: str, file: str, policy: str, output: str) -> int:
    """Show what would be done; exit status 1 when something is refused."""
    seen, wanted = _wanted(at, name, file)
    holdings = at.holdings()
    used = in_use(seen.inventory, holdings, seen.clients)
    mode = at.settings.partition_mig_mode
    made = plan_node(seen.inventory, seen.offers, wanted, used, Policy(policy), mig_mode=mode)
    _notes([*seen.notes, *filter(None, [warning(holdings)]), *wanted.warnings])
    if output == "json":
        _print_json(pictures.document(made, used))
    else:
        show(made, used)
    return NO if made.of(Action.REFUSED) or made.unreadable else YES


def show(made: NodePlan, used: InUse) -> None:
    out = console()
    for decision in made.decisions:
        for line in pictures.draw(decision, used):
            out.print(line)
    for index, why in made.unreadable.items():
        out.print(f"GPU {index}  is refused: {why}")
    out.print(pictures.LEGEND if made.decisions else f"{made.name} names no GPU of this node")


def check(at: Source, name: str, file: str, output: str) -> int:
    """``assert``: exit status 0 when every GPU that the configuration names is as it says."""
    seen, wanted = _wanted(at, name, file)
    found = differences(seen.inventory, wanted)
    _notes([*seen.notes, *wanted.warnings])
    if output == "json":
        by_index = {str(index): difference for index, difference in found.items()}
        _print_json({"configuration": wanted.name, "applied": not found, "differences": by_index})
    elif found:
        for index, difference in found.items():
            print(f"GPU {index}: {difference}")
    else:
        count = len(wanted.wanted)
        print(f"{wanted.name} is applied on {count} GPU{'s' * (count != 1)}")
    return NO if found else YES


def show_current(at: Source, output: str) -> int:
    """``export``: exit status 1 when a GPU is missing in it."""
    made: Exported = export(look(at.driver()))
    _notes(made.losses)
    current = document([made.configuration])
    if output == "json":
        _print_json(current)
    else:
        print(yaml.safe_dump(current, sort_keys=False, default_flow_style=None), end="")
    return YES if made.complete else NO


def _wanted(at: Source, name: str, file: str) -> tuple[Seen, Resolved]:
    given = named_by(name, file)  # errors of files come before the driver's
    of_node = {} if given.configuration else mig_configs.of_node(at.settings.partition_file)
    seen = see(at.driver())
    of_file = {**of_node, **given.of_file}
    found = named(given.name, seen.inventory, seen.offers, of_file)
    return seen, resolve(found, seen.inventory)


def _notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"mig-device-plugin: {note}", file=sys.stderr)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
