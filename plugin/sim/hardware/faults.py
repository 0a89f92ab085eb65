"""Faults of a simulated node: unreadable parts, missing files, a driver that hangs or is not
loaded.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection

from plugin.sim.hardware.codes import Code, NodeError


class Aspect(enum.Enum):
    """A part of a device that can be made unreadable.

    ``GPU_INSTANCES`` of a GPU is unreadable without the right to monitor all instances.
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
    """Faults of the driver and its files. Thread-safe; ``changes`` counts them."""

    def __init__(self) -> None:
        self.changes = 0
        self._lock = threading.Lock()
        self._unreadable: dict[tuple[str, Aspect], Code] = {}
        self._removed: frozenset[str] = frozenset()
        self._available = True
        self._running = threading.Event()
        self._running.set()

    # Queried by the simulated library and files

    def enter(self) -> None:
        """Every driver call passes here: it blocks during a hang, and fails without a loaded
        driver.
        """
        if not self._running.is_set():  # cheaper than wait()
            self._running.wait()
        if not self._available:
            raise NodeError(Code.DRIVER_NOT_LOADED, "asking the simulated driver")

    def code(self, uuid: str, aspect: Aspect) -> Code | None:
        """The return code of reading this part of a device; ``None`` if readable."""
        return self._unreadable.get((uuid, aspect))

    def check(self, uuid: str, aspect: Aspect) -> None:
        """Raise if this part of a device is unreadable."""
        code = self.code(uuid, aspect)
        if code is not None:
            raise NodeError(code, f"reading {aspect.value} of {uuid}")

    @property
    def available(self) -> bool:
        return self._available

    @property
    def removed(self) -> frozenset[str]:
        """Absolute paths of removed files."""
        return self._removed

    # Injected by tests and demonstrations

    def fail(self, uuid: str, aspect: Aspect, code: Code = Code.UNKNOWN) -> None:
        """Make a part of a GPU or MIG device unreadable, until healed, reset or destroyed."""
        with self._lock:
            self._unreadable = {**self._unreadable, (uuid, aspect): code}
            self.changes += 1

    def heal(self, uuids: Collection[str]) -> None:
        with self._lock:
            self._unreadable = {
                key: code for key, code in self._unreadable.items() if key[0] not in uuids
            }
            self.changes += 1

    def remove_node(self, path: str) -> None:
        """Remove a device node or capability file, by its absolute path."""
        with self._lock:
            self._removed |= {path}
            self.changes += 1

    def restore_node(self, path: str) -> None:
        with self._lock:
            self._removed -= {path}
            self.changes += 1

    def set_available(self, *, available: bool) -> None:
        with self._lock:
            self._available = available
            self.changes += 1

    def hang(self) -> None:
        """Block every driver call until :meth:`unhang`."""
        self._running.clear()

    def unhang(self) -> None:
        self._running.set()
