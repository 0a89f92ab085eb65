"""What can be tried on a running simulation, as commands to be pasted."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

_Json = Mapping[str, Any]


class Suggestion(Struct, frozen=True):
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


def suggestions(
    status: _Json, call: str, control: str, pods: str, label: str
) -> tuple[Suggestion, ...]:
    """For the node of the daemon's document `status`. `call` starts the program; `control` and
    `pods` are the control socket and kubelet's pod resources socket; `label` names the MIG
    configuration.
    """

    def command(*words: str, flags: Sequence[str] = ()) -> str:
        return " ".join((call, *map(shlex.quote, (*words, f"--control-socket={control}", *flags))))

    gpus: Sequence[_Json] = status["gpus"]
    found = [Suggestion("list the devices", command("devices"))]
    slices = [f"{gpu['index']}:{device['index']}" for gpu in gpus for device in gpu["migDevices"]]
    if slices:
        found += [
            Suggestion("break one slice", command("sim", "xid", slices[0], "109")),
            Suggestion("clear its fault", command("health", "clear", slices[0])),
        ]
    if gpus:
        last = str(gpus[-1]["index"])
        first = slices[-1] if slices else last
        found += [
            Suggestion("keep new pods off a device", command("cordon", first)),
            Suggestion("let new pods in again", command("uncordon", first)),
            Suggestion("a GPU falls off the bus", command("sim", "lose", "0")),
            Suggestion(
                "bring it back; it is healthy again after a while", command("sim", "restore", "0")
            ),
        ]
        drain = command("drain", last, flags=(f"--pod-resources-socket={pods}",))
        steps = f"{drain} && {command('uncordon', last)}"
        found.append(Suggestion("empty a GPU, and let pods in again", steps))
    if any(gpu["mig"] and gpu["mig"]["current"] for gpu in gpus):
        first, *others = _configurations(gpus)
        found += [
            Suggestion(
                "give each GPU another geometry once its pods have ended, by the Node's label",
                command("sim", "label", f"{label}={first}"),
            ),
            Suggestion("the Node's labels, with the answer", command("sim", "label")),
        ]
        found += [
            Suggestion(
                "and back, with eviction of the pods in the way",
                command("partition", "apply", "-c", other, flags=("--partition-in-use=evict",)),
            )
            for other in others
        ]
    return tuple(found)


def _configurations(gpus: Sequence[_Json]) -> tuple[str, ...]:
    """One that the node does not have, and the one that it has if that has a name."""
    kinds = [{device["profile"] for device in gpu["migDevices"]} for gpu in gpus]
    small = sorted(name for name in set().union(*kinds) if re.fullmatch(r"1g\.\d+gb", name))
    if not small:
        return ("all-balanced",)
    names = "all-balanced", f"all-{small[0]}"
    return names[::-1] if any(len(each) > 1 for each in kinds) else names
