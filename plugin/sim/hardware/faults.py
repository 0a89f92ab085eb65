"""What is broken on a simulated node: unreadable parts, missing files, a driver that hangs or is
not there.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection

from plugin.sim.hardware.codes import Code, NodeError


class Aspect(enum.Enum):
    """Part of a device that can be made unreadable.

    ``GPU_INSTANCES`` of a GPU is what a process without the right to monitor all instances cannot
    read.
    """

    HANDLE = "handle"
    UUID = "uuid"
    NAME = "name"
    MEMORY = "memory"
    ATTRIBUTES = "attributes"
    INSTANCE_IDS = "instance ids"
    MINOR = "minor"
    PCI = "pci"
    CAPABILITY = "compute capability"
    MIG_MODE = "mig mode"
    GPU_INSTANCES = "gpu instances"
    EVENTS = "events"
    RECOVERY = "recovery action"
    SENSORS = "sensors"


class Faults:
    """Faults of the driver and its files. Thread-safe; ``changes`` counts what was done here."""

    def __init__(self) -> None:
        self.changes = 0
        self._lock = threading.Lock()
        self._unreadable: dict[tuple[str, Aspect], Code] = {}
        self._removed: frozenset[str] = frozenset()
        self._available = True
        self._running = threading.Event()
        self._running.set()

    # Asked by whatever plays a driver

    def enter(self) -> None:
        """What every driver call meets first: a hang blocks it, a driver that is not loaded refuses
        it.
        """
        if not self._running.is_set():  # cheaper than to wait for what is so
            self._running.wait()
        if not self._available:
            raise NodeError(Code.DRIVER_NOT_LOADED, "asking the simulated driver")

    def code(self, uuid: str, aspect: Aspect) -> Code | None:
        """The code that reading this part of a device answers with,
        ``None`` when it can be read.
        """
        return self._unreadable.get((uuid, aspect))

    def check(self, uuid: str, aspect: Aspect) -> None:
        """Raise the fault of this part of a device, if it has one."""
        code = self.code(uuid, aspect)
        if code is not None:
            raise NodeError(code, f"reading {aspect.value} of {uuid}")

    @property
    def available(self) -> bool:
        """Whether the driver is loaded."""
        return self._available

    @property
    def removed(self) -> frozenset[str]:
        """Absolute paths of files that should exist and do not."""
        return self._removed

    # Injected by tests and demonstrations

    def fail(self, uuid: str, aspect: Aspect, code: Code = Code.UNKNOWN) -> None:
        """Make one part of one GPU or MIG device unreadable, until healed, reset or destroyed."""
        with self._lock:
            self._unreadable = {**self._unreadable, (uuid, aspect): code}
            self.changes += 1

    def heal(self, uuids: Collection[str]) -> None:
        """Make devices readable again."""
        with self._lock:
            self._unreadable = {
                key: code for key, code in self._unreadable.items() if key[0] not in uuids
            }
            self.changes += 1

    def remove_node(self, path: str) -> None:
        """Take away a device node or capability file, by its absolute path."""
        with self._lock:
            self._removed |= {path}
            self.changes += 1

    def restore_node(self, path: str) -> None:
        with self._lock:
            self._removed -= {path}
            self.changes += 1

    def set_available(self, *, available: bool) -> None:
        """Load or unload the driver."""
        with self._lock:
            self._available = available
            self.changes += 1

    def hang(self) -> None:
        """Block every driver call until :meth:`unhang`."""
        self._running.clear()

    def unhang(self) -> None:
        self._running.set()
