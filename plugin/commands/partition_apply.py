"""``partition apply``, ``status`` and ``cancel``: asked of the running daemon; without one,
``apply`` acts by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from plugin.commands.partition_alone import apply_alone
from plugin.commands.partition_given import Given, named_by
from plugin.commands.partition_lines import APPLIED, NOT_APPLIED, Lines, line, summary, warn
from plugin.control.client import ask
from plugin.core.partition.comparison import document as as_file
from plugin.core.partition.progress import ENDS, State
from plugin.core.settings import Settings
from plugin.errors import ControlError, NoAnswer, NotRunning

#: Between two looks at the daemon's progress.
POLL_SECONDS = 0.1


def apply(settings: Settings, given: Given) -> int:
    """Have a configuration applied; exit status 0 when it is, 1 when it is not."""
    named = named_by(given.name, given.file)
    text = json.dumps(as_file([named.configuration])) if named.configuration else ""
    order = (named.name, text, given.policy or "")
    socket = settings.control_socket
    try:
        done = ask(socket, "partition", "apply", *order)
    except NotRunning:
        return apply_alone(settings, order, given)
    warn(done["warning"])
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
    warn(done.get("warning"))
    return APPLIED


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
                warn("the daemon does not answer; when it runs again, it goes on")
            away = True
            time.sleep(POLL_SECONDS)
            continue
        away = False
        if found["id"] != order:
            gone = found["state"] == State.IDLE
            what = "this order was cancelled" if gone else "another order has replaced this one"
            raise ControlError(what, "see mig-device-plugin partition status")
        if found["state"] in ENDS:
            return lines.end(found)
        if late:
            return lines.end(found, after="not applied in time, and still wanted")
        lines.show(found)
        time.sleep(POLL_SECONDS)
