"""The hardware behind the test library: carries out changes on a simulated node, where the rules
are, and describes the node to the library anew.
"""

from __future__ import annotations

import contextlib
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plugin.core.health.events import EventKind
from plugin.core.inventory.model import Placement
from plugin.sim import tree
from plugin.sim.hardware.cards import CardProfile
from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.gpu import GpuState

from . import build

_READINGS = ("remaining", "compute-profile")

#: Compute slices by NVML's compute instance profile.
_COMPUTE = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7}


class Hardware:
    """A node in a folder: ``dev``, ``proc`` and ``sys``, and ``node.txt`` for the library."""

    def __init__(self, node: SimNode, folder: Path, socket: Path) -> None:
        self.node = node
        self.folder = folder
        self.description = folder / "node.txt"
        #: What functions answer instead of doing anything.
        self.answers: dict[str, int] = {}
        #: Asked before each change whether it is made, and told after it.
        self.allows: Callable[[str], bool] = lambda _: True
        self.done: Callable[[str], None] = lambda _: None
        self._socket = socket

    def describe(self) -> None:
        """After each change of the node or the answers."""
        tree.write(self.node, self.folder)
        build.write_node(self.description, self.node, self.answers, self._socket)

    def ask(self, line: str) -> tuple[int, int]:
        """NVML's code and a number that depends on the verb."""
        verb, uuid, *rest = line.split()
        index = [gpu.uuid for gpu in self.node.gpus].index(uuid)
        gpu = self.node.gpus[index]
        if verb not in _READINGS and not self.allows(verb):
            return Code.UNKNOWN, 0
        try:
            number = self._do(verb, gpu, [int(word) for word in rest])
        except NodeError as error:
            return error.code, 0
        if verb not in _READINGS:
            self.describe()
            build.send_event(self.description, EventKind.MIG_CONFIG, index)
            self.done(verb)
        return Code.SUCCESS, number

    def _do(self, verb: str, gpu: GpuState, numbers: list[int]) -> int:
        match verb, numbers:
            case "mig-mode", [mode]:
                return self.node.set_mig_mode(gpu.index, on=bool(mode))
            case "remaining", [profile]:
                return gpu.remaining(_profile(gpu, profile))
            case "create-gi", [profile, start, size]:
                name = _profile(gpu, profile).name
                return self.node.create_gi(gpu.index, name, Placement(start, size)).id
            case "destroy-gi", [gi]:
                self.node.destroy_gi(gpu.index, gi)
            case "compute-profile", [gi, index]:
                return _size(gpu, gi, index)
            case "create-ci", [gi, profile, *at]:
                place = Placement(*at) if at else None
                return self.node.create_ci(gpu.index, gi, _size(gpu, gi, profile), place).id
            case "destroy-ci", [gi, ci]:
                self.node.destroy_ci(gpu.index, gi, ci)
            case _:
                raise ValueError(verb)
        return 0


def _profile(gpu: GpuState, number: int) -> CardProfile:
    for profile in gpu.card.profiles:
        if profile.id == number:
            return profile
    raise NodeError(Code.NOT_SUPPORTED, f"profile {number}")


def _size(gpu: GpuState, gi: int, profile: int) -> int:
    size = _COMPUTE.get(profile)
    if size not in gpu.instance(gi).profile.compute_slices:
        raise NodeError(Code.NOT_SUPPORTED, f"compute instance profile {profile}")
    return size


@contextlib.contextmanager
def attached(node: SimNode, folder: Path) -> Iterator[Hardware]:
    """Have the node in `folder` take changes until the block ends."""
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as short:
        socket = Path(short, "hardware")
        hardware = Hardware(node, folder, socket)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                code, number = hardware.ask(self.rfile.readline().decode())
                self.wfile.write(f"{int(code)} {int(number)}\n".encode())

        server: Any = socketserver.UnixStreamServer(str(socket), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            hardware.describe()
            yield hardware
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
