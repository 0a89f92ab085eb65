"""Events of GPUs through an NVML event set."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import pynvml

from plugin.core.health.events import ALL_EVENTS, DriverEvent, EventKind
from plugin.driver.base import NO_XID_EVENTS
from plugin.driver.hangs import GpuRef, Hangs, about
from plugin.driver.nvml import texts
from plugin.driver.nvml.binding import using
from plugin.driver.nvml.library import call, no_answer
from plugin.errors import DriverCallFailed

_NOT_THIS_FINE = 0xFFFFFFFF

#: How long closing waits for a thread that waits for events, before it takes that thread to hang in
#: the driver.
CLOSE_SECONDS = 3.0


class NvmlEventSource:
    """An event set over some GPUs. A GPU that is lost makes every :meth:`wait` fail: make a new one
    without it.
    """

    def __init__(
        self, gpu_uuids: Sequence[str], library: object, hangs: Hangs | None = None
    ) -> None:
        """Raises :class:`~plugin.errors.DriverUnavailable` when there can be no event set."""
        self._library = library
        self._hangs = hangs
        self.closed = False
        self._waiting = threading.Lock()
        self._uuids: dict[int | None, str] = {}
        self.failures: dict[str, str] = {}
        self.unsupported: set[str] = set()
        #: GPUs whose changes of the MIG configuration are among the events.
        self.announces: set[str] = set()
        with using(library, hangs):
            try:
                self._set: Any = call("making an event set", pynvml.nvmlEventSetCreate)
            except DriverCallFailed as error:
                raise no_answer(error) from error
            for uuid in gpu_uuids:
                try:
                    with about(GpuRef(uuid=uuid)):
                        self._register(uuid)
                except DriverCallFailed as error:
                    self.failures[uuid] = str(error)

    def wait(self, seconds: float) -> DriverEvent | None:
        with self._waiting, using(self._library, self._hangs):
            if self.closed:
                raise DriverCallFailed(
                    "waiting for events: the event set is closed",
                    code=pynvml.NVML_ERROR_INVALID_ARGUMENT,
                )
            milliseconds = max(0, round(seconds * 1000))
            wait = pynvml.nvmlEventSetWait_v2
            try:
                data = call("waiting for events", wait, self._set, milliseconds)
            except DriverCallFailed as error:
                if error.code == pynvml.NVML_ERROR_TIMEOUT:
                    return None
                raise
            return self._event(data)

    @property
    def is_waited_for(self) -> bool:
        """Whether a thread is in :meth:`wait`."""
        return self._waiting.locked()

    def close(self) -> None:
        """Free the set, once no thread is in :meth:`wait`: NVML does not say what freeing would do
        to it.

        The set of a thread that hangs there is left to the end of the process.
        """
        if self.closed:
            return
        self.closed = True
        if self._waiting.acquire(timeout=CLOSE_SECONDS):
            try:
                with using(self._library, self._hangs):
                    call("freeing the event set", pynvml.nvmlEventSetFree, self._set)
            except DriverCallFailed:
                return  # the driver went away, and the set with it
            finally:
                self._waiting.release()

    def _register(self, uuid: str) -> None:
        handle = call("getting its handle", pynvml.nvmlDeviceGetHandleByUUID, uuid)
        supported = (
            call("asking which events it has", pynvml.nvmlDeviceGetSupportedEventTypes, handle)
            & ALL_EVENTS
        )
        if not supported & EventKind.XID.value:
            self.failures[uuid] = NO_XID_EVENTS
            self.unsupported.add(uuid)
            return
        call(
            "registering for its events",
            pynvml.nvmlDeviceRegisterEvents,
            handle,
            supported,
            self._set,
        )
        self._uuids[_address(handle)] = uuid
        if supported & EventKind.MIG_CONFIG.value:
            self.announces.add(uuid)

    def _event(self, data: Any) -> DriverEvent | None:
        try:
            kind = EventKind(data.eventType)
        except ValueError:
            return None  # nobody asked for it
        uuid = self._uuids.get(_address(data.device)) or texts.text(
            "asking which GPU an event is from", pynvml.nvmlDeviceGetUUID, data.device
        )
        if kind is not EventKind.XID:
            return DriverEvent(kind, uuid)  # NVML fills the rest in for XIDs only
        return DriverEvent(
            kind, uuid, _fine(data.gpuInstanceId), _fine(data.computeInstanceId), data.eventData
        )


def _fine(instance: int) -> int | None:
    return None if instance == _NOT_THIS_FINE else instance


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
