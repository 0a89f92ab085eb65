"""Progress of partitioning as lines, from its JSON form."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from plugin.core.partition.progress import State

#: Exit statuses.
APPLIED, NOT_APPLIED = 0, 1


def warn(text: str | None) -> None:
    if text:
        print(f"mig-device-plugin: {text}", file=sys.stderr)


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

    def end(self, found: Mapping[str, Any], *, after: str = "not applied", why: str = "") -> int:
        """`after` is what the configuration is if it is not applied, and `why` the reason where
        the state names none.
        """
        self.show(found)
        applied = found["state"] == State.SUCCESS
        if self.output == "json":
            print(json.dumps(found, indent=2, ensure_ascii=False))
        elif applied:
            print(f"{found['configuration']} is applied")
        else:
            reason = found["reason"]["text"] if found["reason"] else why or found["state"]
            print(f"{found['configuration']} is {after}: {reason}")
        return APPLIED if applied else NOT_APPLIED


def summary(found: Mapping[str, Any], now: float) -> str:
    if found["configuration"] is None and found["reason"] is not None:
        return f"which configuration is wanted is not known: {found['reason']['text']}"
    if found["configuration"] is None:
        return "no configuration is wanted"
    since = max(0, round(now - found["since"]))
    text = f"{found['configuration']} (by {found['source']}): {found['state']} for {since} s"
    reason = found["reason"]
    with_a_gpu = any(gpu["reason"] == reason for gpu in found["gpus"])
    return f"{text}: {reason['text']}" if reason and not with_a_gpu else text


def line(gpu: Mapping[str, Any]) -> str:
    steps = gpu["steps"]
    text = f"GPU {gpu['index']}  {gpu['state']}: {gpu['wanted']}"
    if steps["total"]:
        text += f", {steps['done']} of {steps['total']} steps"
    return f"{text}; {gpu['reason']['text']}" if gpu["reason"] else text
