"""Names of the sockets in kubelet's directory, and the plugins behind them."""

from __future__ import annotations

import itertools
import os
import re

#: Distinguishes processes: process ids repeat between containers.
PROCESS = os.urandom(4).hex()
_NUMBERS = itertools.count(1)

_OURS = re.compile(r"(?P<resource>.+)-(?P<process>[0-9a-f]{8})-[0-9]+\.sock")
_NVIDIAS = re.compile(r"nvidia-(?P<name>.+)\.sock")


def new_name(resource: str) -> str:
    """A new name every time: a stopping server may delete the socket of the next one at the same
    path.
    """
    return f"{resource.replace('/', '-')}-{PROCESS}-{next(_NUMBERS)}.sock"


def process_of(name: str) -> str:
    """The random word of the process of this program that has made it; empty for others' names."""
    match = _OURS.fullmatch(name)
    return match["process"] if match else ""


def is_of_this_process(name: str) -> bool:
    return process_of(name) == PROCESS


def is_of_this_plugin(name: str) -> bool:
    """Whether a process of this program created the socket."""
    return _OURS.fullmatch(name) is not None


def says_what_it_serves(name: str) -> bool:
    return bool(_OURS.fullmatch(name) or _NVIDIAS.fullmatch(name))


def serves(name: str, resource: str) -> bool | None:
    """Whether a socket called `name` serves `resource`; ``None`` if the name does not tell.

    Knows the names of this plugin and of NVIDIA's (``nvidia-mig-1g.5gb.sock``). The server cannot
    be asked: the API has no call for it, and NVIDIA's plugin loses an update when a second client
    opens its stream.
    """
    if match := _OURS.fullmatch(name):
        return match["resource"] == resource.replace("/", "-")
    if match := _NVIDIAS.fullmatch(name):
        return match["name"] == resource.rpartition("/")[2]
    return None
