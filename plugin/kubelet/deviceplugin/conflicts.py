"""Who in kubelet's directory serves one resource twice, as somebody sees it who is none of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from plugin.kubelet.deviceplugin.naming import process_of, serves
from plugin.kubelet.deviceplugin.rivals import UPDATE_SECONDS, accepts_connections
from plugin.kubelet.directory import SocketDirectory


class Conflict(Struct, frozen=True):
    """Sockets that serve these resources beside a daemon of this plugin.

    ``daemons`` counts those of this plugin, 0 for another plugin. ``update`` when one of them is so
    young that it may be there to replace the other.
    """

    sockets: tuple[str, ...]
    resources: tuple[str, ...]
    daemons: int = 0
    update: bool = False


def live_sockets(folder: Path) -> dict[str, float]:
    """The sockets in kubelet's directory on which somebody listens, with their ages in seconds."""
    now = time.time()
    return {
        name: now - changed / 1e9
        for name, (_, _, changed) in SocketDirectory(folder).sockets().items()
        if accepts_connections(folder / name)
    }


def conflicts(live: Mapping[str, float], resources: Collection[str]) -> tuple[Conflict, ...]:
    """The conflicts about `resources` among live sockets, given by name with the age of each in
    seconds. Another plugin is one also while no daemon of this plugin runs.
    """
    ours: dict[str, list[str]] = {}
    others = []
    for name in sorted(live):
        if not _served([name], resources):
            continue
        if process := process_of(name):
            ours.setdefault(process, []).append(name)
        else:
            others.append(name)
    found = []
    if others:
        found.append(Conflict(tuple(others), _served(others, resources)))
    if len(ours) > 1:
        sockets = sorted(name for names in ours.values() for name in names)
        started = (max(live[name] for name in names) for names in ours.values())
        update = min(started) < UPDATE_SECONDS
        found.append(Conflict(tuple(sockets), _served(sockets, resources), len(ours), update))
    return tuple(found)


def _served(sockets: Iterable[str], resources: Collection[str]) -> tuple[str, ...]:
    names = list(sockets)
    return tuple(
        resource for resource in resources if any(serves(name, resource) for name in names)
    )
