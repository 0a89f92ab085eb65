"""What the control socket's verbs do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from plugin.config import export
from plugin.core.health.ledger import is_cordoned, of
from plugin.core.holders import Holdings, to_json
from plugin.core.inventory.model import Device, MigDevice
from plugin.core.quote import quote
from plugin.core.reasons import Code
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.errors import ControlError, TargetError
from plugin.state.writer import Writer

#: A verb of the simulated node and its arguments → what was done.
Simulate = Callable[[str, Sequence[str]], str]
#: The arguments of a command of partitioning → its answer.
Partition = Callable[[Sequence[str]], Awaitable[Any]]


class Verbs:
    """The commands of the running daemon."""

    def __init__(
        self,
        writer: Writer,
        simulate: Simulate | None = None,
        holdings: Callable[[], Holdings] = Holdings,
        partition: Partition | None = None,
    ) -> None:
        """`simulate` carries out the ``sim`` verbs; ``None`` where the driver is a real one.
        `holdings` is what is known about who holds devices; `partition` carries out the commands
        of partitioning.
        """
        self._writer = writer
        self._simulate = simulate
        self._holdings = holdings
        self._partition = partition

    async def perform(self, verb: str, arguments: Sequence[str]) -> Any:
        """Carry a verb out; returns its answer. Raises :class:`ControlError`."""
        match verb, arguments:
            case "status", []:
                status = document(self._writer.store.snapshot, "daemon")
                if self._partition is not None:
                    status["partition"] = await self._partition(["status"])
                return status
            case "settings", []:
                return export.document(self._writer.store.snapshot.settings)
            case "cordon" | "uncordon" | "clear", [target]:
                return await self._change(verb, target)
            case "sim", [name, *rest]:
                if self._simulate is None:
                    raise ControlError(
                        "this daemon runs on a real driver",
                        "sim commands need one with --simulate",
                    )
                return {"text": self._simulate(name, rest)}
            case "partition", [_, *_] if self._partition is not None:
                return await self._partition(arguments)
            case "status" | "settings" | "cordon" | "uncordon" | "clear" | "sim", _:
                raise ControlError(f"{verb} does not take {len(arguments)} arguments")
        raise ControlError(
            f"unknown verb {quote(verb)}",
            "choose status, settings, cordon, uncordon, clear, partition or sim",
        )

    async def _change(self, verb: str, target: str) -> dict[str, Any]:
        """Change a device's entry in the ledger; answered when that is on disk, or could not be
        written.
        """
        writer = self._writer
        uuid = resolve(writer.store.snapshot, target)
        cordoned = self._is_cordoned(uuid)
        device = writer.store.snapshot.inventory.device(uuid)
        devices = [uuid, *(part.uuid for part in (device.parts if device else ()))]
        match verb:
            case "cordon":
                writer.cordon(uuid)
                done = "was cordoned already" if cordoned else "is cordoned"
            case "uncordon":
                writer.uncordon(uuid)
                done = "is no longer cordoned" if cordoned else "was not cordoned"
            case _:
                faults = self._faults(devices)
                writer.clear(uuid)
                # A GPU that still says itself what is wrong keeps that.
                fewer = faults - self._faults(devices)
                done = (
                    f"has {fewer} reason{'s' * (fewer != 1)} fewer"
                    if faults
                    else "had nothing to clear"
                )
        text = f"{_name(uuid, device)} {done}"
        if (
            verb == "uncordon"
            and device is not None
            and device.gpu_uuid != uuid
            and self._is_cordoned(device.gpu_uuid)
        ):
            text += f", but its GPU is: uncordon {device.gpu_index}"
        problem = await writer.saved()
        return {
            "text": text,
            "uuid": uuid,
            "devices": devices,
            "holdings": to_json(self._holdings(), devices, time.monotonic()),
            "kubelet": writer.store.snapshot.settings.kubelet_socket,
            "warning": f"this is not saved and ends with the daemon: {problem}"
            if problem
            else None,
        }

    def _faults(self, uuids: Sequence[str]) -> int:
        """How many reasons other than cordons the ledger holds against these."""
        ledger = self._writer.store.snapshot.ledger
        return sum(reason.code != Code.CORDONED for uuid in uuids for reason in of(ledger, uuid))

    def _is_cordoned(self, uuid: str) -> bool:
        return is_cordoned(self._writer.store.snapshot.ledger, uuid)


def resolve(snapshot: Snapshot, target: str) -> str:
    """The UUID that an operator means by a UUID, ``INDEX`` or ``INDEX:MIG``. Raises
    :class:`TargetError`.
    """
    devices = snapshot.inventory.devices()
    for device in devices:
        if target in {device.uuid, device.path}:
            return device.uuid
    if target in snapshot.ledger:
        return target  # not there now, but what holds it down can be taken back
    known = ", ".join(device.path for device in devices) or "none"
    raise TargetError(f"no device {quote(target)} on this node", f"choose a UUID or one of {known}")


def _name(uuid: str, device: Device | None) -> str:
    if device is None:
        return f"{uuid}, which is not there now,"
    kind = "MIG device" if isinstance(device, MigDevice) else "GPU"
    return f"{kind} {device.path} ({uuid})"
