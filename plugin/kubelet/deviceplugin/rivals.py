"""Other plugins' sockets in kubelet's directory: live rivals for our resources, and departed ones.

When another plugin registers for a resource of ours and then ends, kubelet keeps our stream and
counts our lists, but sends every Allocate to the ended plugin until somebody registers again, and
reports none of this. The only sign is that plugin's socket: it disappears or, if the process was
killed, refuses connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from plugin.errors import KubeletError
from plugin.kubelet.deviceplugin.comparison import Counted, Difference, Listing, compare
from plugin.kubelet.deviceplugin.departures import Departures
from plugin.kubelet.deviceplugin.naming import (
    is_of_this_plugin,
    is_of_this_process,
    says_what_it_serves,
    serves,
)
from plugin.kubelet.directory import Directory, Identity

log = logging.getLogger(__name__)

#: Poll interval: a killed process causes no directory event.
POLL_SECONDS = 2.0
#: A server creates its socket a moment before it listens. A socket of this age that refuses
#: connections belongs to a dead process.
STALE_SECONDS = 2.0
#: During an update an old and a new instance of this plugin serve the same resource.
UPDATE_SECONDS = 30.0
#: A deletion event may arrive this long after a poll that already missed the socket.
LATE_SECONDS = 1.0
#: Far more than any kubelet's plugins; limits the connections to probe.
MOST_SOCKETS = 256
_MOST_NAMED = 4


class Found(Struct, frozen=True):
    """A socket in one poll. ``age`` is its file's, in seconds."""

    identity: Identity
    alive: bool
    age: float


class Known(Struct, frozen=True):
    """A socket over several polls. ``counts``: its end would be a departure.

    Not for a socket whose end was already counted, or that was dead at our start: its process
    cannot have registered after us.
    """

    identity: Identity
    since: float
    alive: bool
    counts: bool


def step(
    known: Mapping[str, Known] | None,
    found: Mapping[str, Found],
    deleted: Collection[str],
    now: float,
) -> tuple[dict[str, Known], tuple[str, ...]]:
    """(sockets known after a poll, names whose process ended since the last poll).

    `known` is ``None`` before the first poll. `deleted` are names deleted in between, including
    sockets that no poll saw.
    """
    if known is None:
        return {
            name: Known(one.identity, now, one.alive, counts=one.alive)
            for name, one in found.items()
        }, ()
    gone = {name for name in deleted if name not in known and name not in found}
    result = {}
    for name, before in known.items():
        if before.counts and (name not in found or found[name].identity != before.identity):
            gone.add(name)
    for name, one in found.items():
        last = known.get(name)
        if last is None or last.identity != one.identity:
            result[name] = Known(one.identity, now, one.alive, counts=True)
            continue
        died = last.counts and not one.alive and (last.alive or one.age >= STALE_SECONDS)
        if died:
            gone.add(name)
        counts = one.alive or (last.counts and not died)
        result[name] = Known(one.identity, last.since, one.alive, counts)
    return result, tuple(sorted(gone))


def live_rival(known: Mapping[str, Known], resource: str, now: float) -> str:
    """The name of another plugin's socket that serves `resource`; empty if there is none."""
    for name, one in sorted(known.items()):
        update = is_of_this_plugin(name) and now - one.since < UPDATE_SECONDS
        if one.alive and not update and serves(name, resource):
            return name
    return ""


def unnamed(known: Mapping[str, Known]) -> tuple[str, ...]:
    """The live sockets whose names do not say what they serve."""
    return tuple(
        name for name, one in sorted(known.items()) if one.alive and not says_what_it_serves(name)
    )


def accepts_connections(path: Path) -> bool:
    """Whether a process listens on the socket. Any error but a refusal counts as yes."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # noqa: FBT003 — the standard library's signature
            probe.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True
    return True


class Rivals:
    """Follows the sockets of other processes. Used from the event loop only."""

    def __init__(
        self,
        directory: Directory,
        kubelet: str,
        resources: Callable[[], Iterable[str]],
        *,
        accepts: Callable[[Path], bool] = accepts_connections,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`kubelet` is the name of kubelet's socket; `resources` returns what we serve now."""
        self._directory = directory
        self._kubelet = kubelet
        self._resources = resources
        self._accepts = accepts
        self._wall_clock = wall_clock
        self._known: dict[str, Known] | None = None
        self._differences: dict[str, Difference] = {}
        self.departures = Departures(MOST_SOCKETS)
        self._missed: dict[str, float] = {}
        self._reported: dict[str, str] = {}

    def live(self, resource: str) -> str:
        """The socket of another plugin that serves `resource` too, or ``one of`` several; empty
        when there is none.
        """
        known = self._known or {}
        if name := live_rival(known, resource, asyncio.get_running_loop().time()):
            return name
        difference = self._differences.get(resource)
        names = unnamed(known) if difference is not None and difference.lasts else ()
        more = ", …" if len(names) > _MOST_NAMED else ""
        return f"one of {', '.join(names[:_MOST_NAMED])}{more}" if names else ""

    async def compare(
        self,
        listed: Callable[[], Mapping[str, Listing]],
        ask: Callable[[], Awaitable[Counted]],
    ) -> None:
        """Ask kubelet once what it counts, if there is a plugin of which nothing else tells what it
        serves. `listed` are the resources that are registered.
        """
        if not unnamed(self._known or {}):
            self._differences = {}
            return
        try:
            counted = await ask()
        except KubeletError as error:  # what was known stays
            log.debug("devices that kubelet counts are not known", extra={"reason": str(error)})
            return
        now = asyncio.get_running_loop().time()
        self._differences = compare(self._differences, listed(), counted, now)
        self._report()

    async def run(self) -> None:
        """Poll until cancelled: at every change of the directory, and regularly while there are
        such sockets.
        """
        while True:
            changed = self._directory.changed()
            self.poll()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS if self._known else None):
                    await changed

    def poll(self) -> None:
        """Poll once. Removes sockets of dead processes of this program."""
        now = asyncio.get_running_loop().time()
        found = self._find()
        before = self._known or {}
        self._missed = {
            name: at for name, at in self._missed.items() if now - at < LATE_SECONDS
        } | dict.fromkeys(before.keys() - found.keys(), now)
        deleted = [
            name
            for name in self._directory.take_deleted()
            if self._is_foreign(name) and name not in self._missed
        ]
        self._known, gone = step(self._known, found, deleted, now)
        for name in gone:
            log.info("another plugin's socket has gone", extra={"socket": name})
        self.departures.note(gone, now)
        for name, one in found.items():
            if is_of_this_plugin(name) and not one.alive and one.age >= STALE_SECONDS:
                log.info("removing a dead process's socket", extra={"socket": name})
                self._directory.remove(name)
        self._report()

    def _find(self) -> dict[str, Found]:
        wall = self._wall_clock()
        names = sorted(
            (name, identity)
            for name, identity in self._directory.sockets().items()
            if self._is_foreign(name)
        )
        return {
            name: Found(
                identity, self._accepts(self._directory.path / name), wall - identity[2] / 1e9
            )
            for name, identity in names[:MOST_SOCKETS]
        }

    def _is_foreign(self, name: str) -> bool:
        return name != self._kubelet and not is_of_this_process(name)

    def _report(self) -> None:
        rivals = {
            resource: rival for resource in self._resources() if (rival := self.live(resource))
        }
        for resource, rival in rivals.items():
            if self._reported.get(resource) != rival:
                log.warning(
                    "another device plugin serves this resource",
                    extra={"resource": resource, "socket": rival},
                )
        for resource in self._reported.keys() - rivals.keys():
            log.info(
                "no other device plugin serves this resource any more",
                extra={"resource": resource},
            )
        self._reported = rivals
