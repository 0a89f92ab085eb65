"""Event queues of the simulated node, the counterpart of NVML event sets."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from plugin.driver.base import DriverEvent
from plugin.sim.hardware.codes import Code, NodeError


class EventQueue:
    """Receives events of registered GPUs.

    Thread-safe, for one waiting thread. Created by
    :meth:`plugin.sim.hardware.engine.SimNode.open_queue`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._masks: dict[str, int] = {}
        self._events: deque[DriverEvent] = deque()
        self._lost: set[str] = set()
        self._closed = False
        #: A waiter took an event and has not returned for the next one.
        self._carried = False

    def register(self, gpu_uuid: str, mask: int) -> None:
        """Receive the kinds in ``mask`` (event bits) of a GPU; repeated calls widen the mask."""
        with self._changed:
            self._masks[gpu_uuid] = self._masks.get(gpu_uuid, 0) | mask

    def deliver(self, event: DriverEvent) -> None:
        with self._changed:
            if not self._closed and self._masks.get(event.gpu_uuid, 0) & event.kind.value:
                self._events.append(event)
                self._changed.notify_all()

    def mark_lost(self, gpu_uuid: str, *, lost: bool) -> None:
        """Every wait fails while a registered GPU is lost."""
        with self._changed:
            (self._lost.add if lost else self._lost.discard)(gpu_uuid)
            self._changed.notify_all()

    def wait(self, timeout: float | None) -> DriverEvent | None:
        """The next event, ``None`` after ``timeout`` seconds.

        Raises :class:`~plugin.sim.hardware.codes.NodeError` if a registered GPU is lost or the
        queue is closed.
        """
        with self._changed:
            self._carried = False
            self._changed.notify_all()
            self._changed.wait_for(self._ready, timeout)
            if self._closed:
                raise NodeError(Code.INVALID_ARGUMENT, "waiting on a closed event queue")
            if self._events:
                self._carried = True
                return self._events.popleft()
            if self._lost & self._masks.keys():
                raise NodeError(Code.GPU_IS_LOST, "waiting for events")
            return None

    def wait_heard(self, seconds: float) -> bool:
        """Wait until the waiter has taken every event and returned for the next one."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or not (self._events or self._carried), seconds
            )

    def _ready(self) -> bool:
        return bool(self._closed or self._events or self._lost & self._masks.keys())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class EventQueues:
    """All open queues. The owner locks."""

    def __init__(self) -> None:
        self._queues: list[EventQueue] = []

    def open(self, lost: Iterable[str]) -> EventQueue:
        """`lost` are the UUIDs of lost GPUs."""
        queue = EventQueue()
        for gpu_uuid in lost:
            queue.mark_lost(gpu_uuid, lost=True)
        self._queues.append(queue)
        return queue

    def close(self, queue: EventQueue) -> None:
        if queue in self._queues:
            self._queues.remove(queue)
        queue.close()

    def __iter__(self) -> Iterator[EventQueue]:
        return iter(tuple(self._queues))

    def deliver(self, event: DriverEvent) -> None:
        for queue in self._queues:
            queue.deliver(event)

    def mark_lost(self, gpu_uuid: str, *, lost: bool) -> None:
        for queue in self._queues:
            queue.mark_lost(gpu_uuid, lost=lost)
