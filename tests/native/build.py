"""Builds the test library with the system's C compiler, and describes nodes to it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from plugin.core.health.events import EventKind
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.gpu import GpuState, Work

SOURCE = Path(__file__).with_name("libnvidia_ml.c")
LIBRARY = "libnvidia-ml.so.1"

#: By their number in the file; the others are in no list of the driver's.
_LISTED = (Work.COMPUTE, Work.GRAPHICS, Work.MPS)

#: Names the text file that tells the library about its node.
NODE_VARIABLE = "FAKE_NVML_NODE"


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, *, old_driver: bool = False) -> Path:
    """Compile the library into `folder`, without the functions of later drivers if it shall be an
    old one's.
    """
    cc = compiler()
    if cc is None:
        raise FileNotFoundError("no C compiler: neither cc nor gcc is on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    command = [
        cc,
        "-std=c11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{LIBRARY}",
    ]
    subprocess.run(
        [*command, *(["-DOLD_DRIVER"] if old_driver else []), "-o", library, SOURCE], check=True
    )
    return library


def write_node(
    path: Path,
    node: SimNode | None = None,
    answers: Mapping[str, int] | None = None,
    hardware: Path | None = None,
) -> None:
    """Tell the library that its node is `node` (A100-40GB cards; else its own default), what
    functions answer, and at which socket `hardware` takes changes.

    The file appears in one piece, for the daemon may read it at any time.
    """
    lines = [f"answer {function} {code}" for function, code in (answers or {}).items()]
    lines += [f"hardware {hardware}"] if hardware else []
    for gpu in node.gpus if node else ():
        lines.append(f"gpu {gpu.uuid} {gpu.minor} {gpu.pci_bus_id} {gpu.mig:d} {gpu.mig_pending:d}")
        lines.append(f"recovery {gpu.recovery_action}")
        lines += ["lost"] if gpu.lost else []
        lines += [
            f"gi {each.id} {each.profile.id} {each.placement.start}"
            for each in gpu.instances
            if not each.compute
        ]
        lines += _processes(node, gpu) if node else ()
        slots = {slot.index: slot for slot in gpu.devices()}
        for index in range(max(slots, default=-1) + 1):
            slot = slots.get(index)
            lines.append(
                f"mig {slot.ci.uuid} {slot.gi.id} {slot.ci.id} {slot.gi.profile.id} "
                f"{slot.gi.placement.start} "
                f"{slot.ci.slices}"
                if slot
                else "hole"
            )
    new = path.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    new.replace(path)


def _processes(node: SimNode, gpu: GpuState) -> Iterator[str]:
    held = [(gpu.uuid, -1, -1), *((s.ci.uuid, s.gi.id, s.ci.id) for s in gpu.devices())]
    for uuid, gi, ci in held:
        for process in node.processes(uuid):
            if process.work in _LISTED:
                yield f"process {process.pid} {_LISTED.index(process.work)} {gi} {ci}"


def send_event(
    path: Path,
    kind: EventKind,
    gpu: int,
    data: int = 0,
    *,
    gi: int | None = None,
    ci: int | None = None,
) -> None:
    """Have the library whose node is told by `path` report an event of the GPU with this index."""
    with path.with_name(f"{path.name}.events").open("a", encoding="ascii") as file:
        file.write(
            f"{kind.value} {gpu} {data} {-1 if gi is None else gi} {-1 if ci is None else ci}\n"
        )
