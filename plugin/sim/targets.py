"""Names of GPUs and MIG devices on a simulated node."""

from __future__ import annotations

from msgspec import Struct

from plugin.errors import SimulationError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.gpu import GpuState


class Target(Struct, frozen=True):
    """A GPU, or one of its instances. ``title`` is for messages."""

    gpu: GpuState
    title: str
    uuid: str
    gi: int | None = None
    ci: int | None = None


def find_gpu(engine: SimNode, text: str) -> GpuState:
    found = find_target(engine, text)
    if found.gi is not None:
        raise SimulationError(f"{text} is a part of a GPU; name a whole GPU: {_choices(engine)}")
    return found.gpu


def find_target(engine: SimNode, text: str) -> Target:
    """Find ``GPU``, ``GPU:MIG``, ``GPU/GI``, ``GPU/GI/CI`` or a UUID; GPU is NVML's index."""
    for position, gpu in enumerate(engine.gpus):
        if text in {str(position), gpu.uuid}:
            return Target(gpu, title(engine, gpu), gpu.uuid)
        for slot in gpu.devices():
            path = f"{position}:{slot.index}"
            if text in {path, f"{position}/{slot.gi.id}/{slot.ci.id}", slot.ci.uuid}:
                return Target(
                    gpu, f"MIG device {path} ({slot.ci.uuid})", slot.ci.uuid, slot.gi.id, slot.ci.id
                )
        for instance in gpu.instances:
            if text == f"{position}/{instance.id}":
                # Processes hold compute instances: the first one represents the GPU instance.
                holder = instance.compute[0].uuid if instance.compute else gpu.uuid
                return Target(
                    gpu, f"GPU instance {instance.id} of GPU {position}", holder, instance.id
                )
    raise SimulationError(
        f"nothing on this node is called {text!r}; choose a UUID or {_choices(engine)}"
    )


def _choices(engine: SimNode) -> str:
    """The GPUs, and an example of how to name a part of one."""
    gpus = engine.gpus
    examples = [
        f"{n}:{slot.index} or {n}/{slot.gi.id}/{slot.ci.id}"
        for n, gpu in enumerate(gpus)
        for slot in gpu.devices()
    ]
    indices = ", ".join(str(n) for n in range(len(gpus))) or "none"
    return f"GPU {indices}" + (f"; a part of one is written like {examples[0]}" if examples else "")


def title(engine: SimNode, gpu: GpuState) -> str:
    position = next((n for n, other in enumerate(engine.gpus) if other.uuid == gpu.uuid), gpu.index)
    return f"GPU {position} ({gpu.uuid})"
