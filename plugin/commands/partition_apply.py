"""``partition apply``, ``status`` and ``cancel``: asked of the running daemon; without one,
``apply`` acts by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from plugin import publishing
from plugin.assembly import assemble, build_driver
from plugin.commands.partition_given import named_by
from plugin.commands.partition_holders import asking, warning
from plugin.commands.partition_lines import line, summary
from plugin.control.client import ask
from plugin.core.partition.comparison import document as as_file
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import ENDS, State, document
from plugin.core.settings import Settings
from plugin.errors import ControlError, NoAnswer, NotRunning
from plugin.partition.executor import Executor
from plugin.partition.room import Room
from plugin.partition.surroundings import Surroundings, nobody
from plugin.partitioning import MEMORY
from plugin.state.places import DEFAULT_LEDGER
from plugin.state.turns import without_daemon

APPLIED, NOT_APPLIED = 0, 1
#: Between two looks at the daemon's progress.
POLL_SECONDS = 0.1


class Given(Struct, frozen=True):
    """What the command line says. ``seconds``: 0 waits without end."""

    name: str
    file: str = ""
    policy: Policy | None = None
    seconds: float = 0.0
    output: str = "text"


def apply(settings: Settings, given: Given) -> int:
    """Have a configuration applied; exit status 0 when it is, 1 when it is not."""
    named = named_by(given.name, given.file)
    text = json.dumps(as_file([named.configuration])) if named.configuration else ""
    order = (named.name, text, given.policy or "")
    socket = settings.control_socket
    try:
        done = ask(socket, "partition", "apply", *order)
    except NotRunning:
        return _without_daemon(settings, order, given)
    _warn(done["warning"])
    saved = done["warning"] is None
    return _follow(lambda: ask(socket, "partition", "status"), done["id"], given, saved=saved)


def show(settings: Settings, output: str) -> int:
    """``status``: exit status 0 when everything is applied, or nothing is wanted."""
    found = ask(settings.control_socket, "partition", "status")
    if output == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print(summary(found, time.time()))
        for gpu in found["gpus"]:
            print(line(gpu))
        for note in (*found["warnings"], *found["notes"]):
            print(f"note: {note}")
    return APPLIED if found["state"] in {State.SUCCESS, State.IDLE} else NOT_APPLIED


def cancel(settings: Settings) -> int:
    done = ask(settings.control_socket, "partition", "cancel")
    print(done["text"])
    _warn(done.get("warning"))
    return APPLIED


# ---- progress as lines


class Lines(Struct):
    """Prints each GPU's line when it says something else, and each note once."""

    output: str
    _said: dict[int, tuple[str, object]] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)

    def show(self, found: Mapping[str, Any]) -> None:
        if self.output == "json":
            return
        for gpu in found["gpus"]:
            now = gpu["state"], gpu["reason"]
            if self._said.get(gpu["index"]) != now:
                self._said[gpu["index"]] = now
                print(line(gpu), flush=True)
        for note in (*found["warnings"], *found["notes"]):
            if note not in self._noted:
                self._noted.add(note)
                print(f"note: {note}", file=sys.stderr)

    def end(self, found: Mapping[str, Any], *, late: bool = False) -> int:
        self.show(found)
        applied = found["state"] == State.SUCCESS
        if self.output == "json":
            print(json.dumps(found, indent=2, ensure_ascii=False))
            return APPLIED if applied else NOT_APPLIED
        if applied:
            print(f"{found['configuration']} is applied")
            return APPLIED
        reason = found["reason"]["text"] if found["reason"] else found["state"]
        after = "not applied in time, and still wanted" if late else "not applied"
        print(f"{found['configuration']} is {after}: {reason}")
        return NOT_APPLIED


def _follow(look: Callable[[], Mapping[str, Any]], order: str, given: Given, *, saved: bool) -> int:
    """An order that is `saved` outlasts the daemon's process."""
    lines, end = Lines(given.output), time.monotonic() + given.seconds
    away = False
    while True:
        late = given.seconds > 0 and time.monotonic() >= end
        try:
            found = look()
        except (NotRunning, NoAnswer):
            if late or not saved:
                raise
            if not away:
                _warn("the daemon does not answer; when it runs again, it goes on")
            away = True
            time.sleep(POLL_SECONDS)
            continue
        away = False
        if found["id"] != order:
            raise ControlError(
                "another order has replaced this one", "see mig-device-plugin partition status"
            )
        if found["state"] in ENDS or late:
            return lines.end(found, late=found["state"] not in ENDS)
        lines.show(found)
        time.sleep(POLL_SECONDS)


def _warn(text: str | None) -> None:
    if text:
        print(f"mig-device-plugin: {text}", file=sys.stderr)


# ---- without a daemon


def _without_daemon(settings: Settings, order: tuple[str, ...], given: Given) -> int:
    with tempfile.TemporaryDirectory(prefix="mig-device-plugin-") as folder:
        own = Path(folder) / "ledger.json"
        # Where a daemon has its ledger, what is wanted is beside it.
        ledger = own if settings.simulate else Path(settings.ledger_file or DEFAULT_LEDGER)
        with without_daemon(ledger, settings.control_socket):
            _warn("no daemon runs here: changing the GPUs")
            return asyncio.run(_alone(settings, order, given, own, ledger.with_name(MEMORY)))


async def _alone(
    settings: Settings, order: tuple[str, ...], given: Given, ledger: Path, memory: Path
) -> int:
    """Does what the daemon does, for one order."""
    # Devices are in nobody's service here: that they leave it is no news.
    logging.getLogger("plugin.state.reports").setLevel(logging.ERROR)
    driver, _ = build_driver(settings)
    daemon = assemble(settings, driver, ledger)
    holdings = nobody if settings.simulate else asking(settings)
    around = Surroundings(holdings, evictor=publishing.evictor(settings, None))
    room = Room(daemon.writer, driver, daemon.worker, memory, around, settings)
    await room.load()
    await daemon.start()
    _warn(warning(await holdings()))
    done = await room.perform(["apply", *order])
    _warn(done["warning"])
    tasks = [
        asyncio.create_task(daemon.writer.run(daemon.heartbeats)),
        asyncio.create_task(room.run(daemon.heartbeats)),
    ]
    try:
        return await _until_ended(room.executor, given)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_ended(executor: Executor, given: Given) -> int:
    lines = Lines(given.output)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(given.seconds or None):
            while not executor.progress.ended:
                changed = executor.shown.changed.wait()
                lines.show(document(executor.progress))
                await changed
    return lines.end(document(executor.progress), late=not executor.progress.ended)
