"""What can be tried on a running simulation, as commands to be pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Suggestion:
    meaning: str
    command: str


def program(
    started_as: str,
    executable: str = sys.executable,
    which: Callable[[str], str | None] = shutil.which,
) -> str:
    """How this program is called in the user's shell; `started_as` is ``sys.argv[0]``."""
    name = Path(started_as).name
    if name == "__main__.py":
        return f"{shlex.quote(executable)} -m plugin"
    found = which(name)
    if found and Path(found).absolute() == Path(started_as).absolute():
        return shlex.quote(name)
    return shlex.quote(str(Path(started_as).absolute()))


def suggestions(status: _Json, call: str, control: str, pods: str) -> tuple[Suggestion, ...]:
    """For the node of the daemon's document `status`. `call` starts the program; `control` and
    `pods` are the control socket and kubelet's pod resources socket.
    """

    def command(*words: str, flags: Sequence[str] = ()) -> str:
        return " ".join((call, *map(shlex.quote, (*words, f"--control-socket={control}", *flags))))

    gpus: Sequence[_Json] = status["gpus"]
    found = [Suggestion("list the devices", command("devices"))]
    slices = [f"{gpu['index']}:{device['index']}" for gpu in gpus for device in gpu["migDevices"]]
    if slices:
        found += [
            Suggestion("break one slice", command("sim", "xid", slices[0], "109")),
            Suggestion("declare it well again", command("health", "clear", slices[0])),
        ]
    if gpus:
        last = str(gpus[-1]["index"])
        first = slices[-1] if slices else last
        found += [
            Suggestion("keep new pods off a device", command("cordon", first)),
            Suggestion("let them in again", command("uncordon", first)),
            Suggestion("a GPU falls off the bus", command("sim", "lose", "0")),
            Suggestion("it is back, and well after a while", command("sim", "restore", "0")),
        ]
    capable = [str(gpu["index"]) for gpu in gpus if gpu["mig"]]
    if capable:
        gpu = capable[-1]
        drain = command("drain", gpu, flags=(f"--pod-resources-socket={pods}",))
        steps = (
            drain,
            command("sim", "repartition", f"{gpu}={_other_geometry(gpus, gpu)}"),
            command("uncordon", gpu),
        )
        found.append(Suggestion("empty a GPU and give it another geometry", " && ".join(steps)))
    return tuple(found)


def _other_geometry(gpus: Sequence[_Json], index: str) -> str:
    """Balanced, or off where it is that already: both are valid on each card with MIG."""
    kinds = {
        device["profile"]
        for gpu in gpus
        if str(gpu["index"]) == index
        for device in gpu["migDevices"]
    }
    return "off" if len(kinds) > 1 else "balanced"
