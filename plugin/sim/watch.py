"""Events and probes of the simulated driver, in the words of the NVML driver."""

from __future__ import annotations

from collections.abc import Sequence

from plugin.core.health.events import ALL_EVENTS, DriverEvent, EventKind, Probe
from plugin.driver.base import NO_XID_EVENTS
from plugin.errors import DriverCallFailed, DriverUnavailable
from plugin.sim.hardware.codes import Code, NodeError, call_failed
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.events import EventQueue
from plugin.sim.hardware.faults import NO_ANSWER, Aspect
from plugin.sim.hardware.gpu import GpuState


class SimEventSource:
    """Events of some GPUs of a simulated node. Thread-safe."""

    def __init__(self, engine: SimNode, gpu_uuids: Sequence[str]) -> None:
        """Raises :class:`~plugin.errors.DriverUnavailable` while the simulated driver is not
        loaded.
        """
        try:
            engine.enter()
        except NodeError as error:
            reason = call_failed("making an event set", error.code)
            raise DriverUnavailable(
                f"{reason}; the NVIDIA driver does not answer",
                "see the kernel log (dmesg) for NVRM messages",
            ) from error
        self._engine = engine
        self._queue: EventQueue | None = engine.open_queue()
        self.failures: dict[str, str] = {}
        supported = engine.supported_events & ALL_EVENTS
        for uuid in gpu_uuids:
            try:
                find(engine, uuid)
                _check(engine, uuid, Aspect.EVENTS, "asking which events it has")
            except DriverCallFailed as error:
                self.failures[uuid] = str(error)
                continue
            if supported & EventKind.XID.value:
                self._queue.register(uuid, supported)
            else:
                self.failures[uuid] = NO_XID_EVENTS

    @property
    def closed(self) -> bool:
        return self._queue is None

    def wait(self, seconds: float) -> DriverEvent | None:
        queue = self._queue
        if queue is None:
            raise _closed()
        try:
            self._engine.enter()
            return queue.wait(seconds)
        except NodeError as error:
            if self.closed:
                raise _closed() from error
            raise call_failed("waiting for events", error.code) from error

    def close(self) -> None:
        """Free it; a thread that waits is told at once."""
        queue, self._queue = self._queue, None
        if queue is not None:
            self._engine.close_queue(queue)


def _closed() -> DriverCallFailed:
    return DriverCallFailed(
        "waiting for events: the event set is closed", code=Code.INVALID_ARGUMENT
    )


def probe(engine: SimNode, gpu_uuid: str, *, thorough: bool) -> Probe:
    """Ask a simulated GPU for its health, as :func:`plugin.driver.nvml.probes.probe` asks a real
    one.
    """
    rows, pages = None, None
    try:
        gpu = find(engine, gpu_uuid)
        answers = says(engine, gpu_uuid, Aspect.RECOVERY, "reading its recovery action")
        action = gpu.recovery_action if answers else None
        if action is None and engine.faults.code(gpu_uuid, Aspect.MEMORY) not in NO_ANSWER:
            _check(engine, gpu_uuid, Aspect.MEMORY, "nvmlDeviceGetMemoryInfo")
        if thorough and says(engine, gpu_uuid, Aspect.SENSORS, "nvmlDeviceGetRemappedRows"):
            rows = gpu.wear.remap_failure if gpu.card.remaps_rows else None
            pages = None if gpu.card.remaps_rows else gpu.wear.retirement_pending
    except DriverCallFailed as error:
        lost = error.gpu_lost or error.code == Code.NOT_FOUND
        return Probe(gpu_uuid, error=str(error), lost=lost)
    return Probe(gpu_uuid, recovery_action=action, remap_failure=rows, retirement_pending=pages)


def find(engine: SimNode, gpu_uuid: str) -> GpuState:
    """The GPU of this UUID, if its handle can be had."""
    what = "getting its handle"
    gpu = next((gpu for gpu in engine.gpus if gpu.uuid == gpu_uuid), None)
    try:
        engine.enter(gpu)
    except NodeError as error:
        raise call_failed(what, error.code) from error
    if gpu is None:
        raise call_failed(what, Code.NOT_FOUND)
    _check(engine, gpu_uuid, Aspect.HANDLE, what)
    return gpu


def _check(engine: SimNode, gpu_uuid: str, aspect: Aspect, what: str) -> None:
    code = engine.faults.code(gpu_uuid, aspect)
    if code is not None:
        raise call_failed(what, code)


def says(engine: SimNode, gpu_uuid: str, aspect: Aspect, what: str) -> bool:
    """Whether a GPU answers this question; raises only when it answers that it is lost."""
    try:
        _check(engine, gpu_uuid, aspect, what)
    except DriverCallFailed as error:
        if error.gpu_lost:
            raise
        return False
    return True
