"""The C interface: exported functions, opaque handles, return codes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml
from msgspec import Struct

from plugin.sim.hardware.codes import Code, NodeError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.events import EventQueue
from plugin.sim.hardware.faults import Aspect
from plugin.sim.hardware.gpu import GpuInstance, GpuState, MigSlot

DEVICE = pynvml.c_nvmlDevice_t
GPU_INSTANCE = pynvml.c_nvmlGpuInstance_t
COMPUTE_INSTANCE = pynvml.c_nvmlComputeInstance_t
EVENT_SET = pynvml.c_nvmlEventSet_t
SAMPLE = pynvml.c_nvmlGpmSample_t

UINT = ctypes.c_uint
UINT_OUT = ctypes.POINTER(ctypes.c_uint)
INT_OUT = ctypes.POINTER(ctypes.c_int)
ULL_OUT = ctypes.POINTER(ctypes.c_ulonglong)
TEXT_OUT = ctypes.POINTER(ctypes.c_char)


class GpuRef(Struct, frozen=True):
    """``index`` is the slot."""

    index: int


class MigRef(Struct, frozen=True):
    gpu: int
    uuid: str


class GiRef(Struct, frozen=True):
    gpu: int
    gi: int


class CiRef(Struct, frozen=True):
    gpu: int
    gi: int
    ci: int


class Sample(Struct, eq=False):
    """A GPM sample: the busy share of slices, 0..1; ``None`` before it is taken."""

    busy: float | None = None


Target = GpuRef | MigRef | GiRef | CiRef | EventQueue | Sample


class Session:
    """One process's use of the library: initialisations and handles.

    A handle is the address of a small buffer kept alive here, so unknown addresses are refused. The
    same target keeps its handle.
    """

    def __init__(self, engine: SimNode) -> None:
        self.engine = engine
        self.initialised = 0
        self.slots: tuple[int, ...] = ()
        self._buffers: dict[Target, ctypes.Array[ctypes.c_char]] = {}
        self._targets: dict[int, Target] = {}

    def start(self) -> None:
        """NVML knows the GPUs that are present at its first initialisation, by position."""
        if not self.initialised:
            self.slots = tuple(gpu.index for gpu in self.engine.gpus)
        self.initialised += 1
        self.engine.sessions += 1

    def end(self) -> None:
        self.initialised -= 1
        self.engine.sessions -= 1

    def handle(self, target: Target, kind: Any) -> Any:
        """A pointer of ctypes type ``kind`` for a target."""
        buffer = self._buffers.get(target)
        if buffer is None:
            buffer = self._buffers[target] = ctypes.create_string_buffer(8)
            self._targets[ctypes.addressof(buffer)] = target
        return ctypes.cast(buffer, kind)

    def release(self, target: Target) -> None:
        buffer = self._buffers.pop(target)
        del self._targets[ctypes.addressof(buffer)]

    def known(self, handle: Any) -> Target | None:
        """A handle's target; ``None`` for an unknown handle."""
        address = ctypes.cast(handle, ctypes.c_void_p).value
        return self._targets.get(address) if address is not None else None

    def target(self, handle: Any) -> Target:
        """A handle's target; refuses unknown handles."""
        found = self.known(handle)
        if found is None:
            raise NodeError(Code.INVALID_ARGUMENT, "using a handle that was never given out")
        return found

    def device(self, handle: Any) -> tuple[GpuState, MigSlot | None]:
        """The GPU of a device handle and, for a MIG device's handle, that device. Refuses lost
        GPUs.
        """
        target = self.target(handle)
        if not isinstance(target, GpuRef | MigRef):
            raise NodeError(Code.INVALID_ARGUMENT, "using another handle as a device")
        gpu = self.engine.present(target.index if isinstance(target, GpuRef) else target.gpu)
        if isinstance(target, GpuRef):
            return gpu, None
        slot = gpu.device(target.uuid)
        if slot is None:
            raise NodeError(Code.NOT_FOUND, f"using {target.uuid}, which is no more")
        return gpu, slot

    def gpu(
        self, handle: Any, aspect: Aspect | None = None, refused: Code = Code.INVALID_ARGUMENT
    ) -> GpuState:
        """The GPU of a device handle; a MIG device's handle is ``refused``."""
        gpu, slot = self.device(handle)
        if slot is not None:
            raise NodeError(refused, "asking a MIG device for what only its GPU has")
        if aspect is not None:
            self.engine.faults.check(gpu.uuid, aspect)
        return gpu

    def mig(self, handle: Any, aspect: Aspect) -> tuple[GpuState, MigSlot]:
        """The MIG device of a handle; refuses whole GPUs."""
        gpu, slot = self.device(handle)
        if slot is None:
            raise NodeError(Code.NOT_SUPPORTED, "asking a GPU for what only a MIG device has")
        self.engine.faults.check(slot.ci.uuid, aspect)
        return gpu, slot

    def gpu_instance(self, handle: Any) -> tuple[GpuState, GpuInstance]:
        target = self.target(handle)
        if not isinstance(target, GiRef):
            raise NodeError(Code.INVALID_ARGUMENT, "using another handle as a GPU instance")
        gpu = self.engine.present(target.gpu)
        return gpu, gpu.instance(target.gi)


Body = Callable[..., None]


class Export(Struct, frozen=True):
    """A C function: its argument types, and the Python function that implements it, with the
    session first.
    """

    name: str
    arguments: tuple[Any, ...]
    body: Body
    before_init: bool


class Exports(dict[str, Export]):
    def add(self, name: str, *arguments: Any, before_init: bool = False) -> Callable[[Body], Body]:
        """Decorator: export a function under the library's name."""

        def register(body: Body) -> Body:
            self[name] = Export(name, arguments, body, before_init)
            return body

        return register


def write_text(out: Any, length: int, text: str) -> None:
    """Copy a string with its terminator into a buffer of ``length`` bytes."""
    data = text.encode() + b"\0"
    require(out)
    if len(data) > length:
        raise NodeError(Code.INSUFFICIENT_SIZE, f"writing {len(data)} bytes into {length}")
    ctypes.memmove(out, data, len(data))


def require(*pointers: Any) -> None:
    """Refuse null pointers."""
    if not all(pointers):
        raise NodeError(Code.INVALID_ARGUMENT, "writing to a null pointer")


def require_version(found: int, known: int) -> None:
    """Refuse a structure of an unknown version."""
    if found != known:
        raise NodeError(
            Code.ARGUMENT_VERSION_MISMATCH,
            f"reading a structure of version {found:#x}, not {known:#x}",
        )
