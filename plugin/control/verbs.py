"""What the control socket's verbs do."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from plugin.core.health.ledger import is_cordoned, of
from plugin.core.holders import Holdings, containers, of_devices, to_json
from plugin.core.inventory.model import Device, Gpu, MigDevice
from plugin.core.quote import quote
from plugin.core.reasons import Code
from plugin.core.release import LIMIT
from plugin.core.state import Snapshot
from plugin.errors import ControlError, TargetError
from plugin.state.writer import Writer

#: A verb of the simulated node and its arguments → what was done.
Simulate = Callable[[str, Sequence[str]], str]
#: The arguments of a verb → its answer. Raises :class:`ControlError`.
Perform = Callable[[Sequence[str]], Awaitable[Any]]


class Verbs:
    """The commands of the running daemon."""

    def __init__(
        self,
        writer: Writer,
        simulate: Simulate | None = None,
        holdings: Callable[[], Holdings] = Holdings,
        partition: Perform | None = None,
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
        known: Mapping[str, tuple[int, int | None, Perform]] = {
            "status": (0, 0, self._status),
            "settings": (0, 0, self._settings),
            "cordon": (1, 1, functools.partial(self._change, verb)),
            "uncordon": (1, 1, functools.partial(self._change, verb)),
            "clear": (1, 1, functools.partial(self._change, verb)),
            "release": (1, None, self._release),
            "resume": (0, 0, self._resume),
            "sim": (1, None, self._sim),
        }
        if self._partition is not None:
            known = {**known, "partition": (1, None, self._partition)}
        if verb not in known:
            *others, last = known
            raise ControlError(
                f"unknown verb {quote(verb)}", f"choose {', '.join(others)} or {last}"
            )
        fewest, most, perform = known[verb]
        if len(arguments) < fewest or (most is not None and len(arguments) > most):
            raise ControlError(f"{verb} does not take {len(arguments)} arguments")
        return await perform(arguments)

    async def _status(self, _: Sequence[str]) -> dict[str, Any]:
        from plugin.core.status import document  # noqa: PLC0415 — with the first request

        status = document(self._writer.store.snapshot, "daemon")
        if self._partition is not None:
            status["partition"] = await self._partition(["status"])
        return status

    async def _settings(self, _: Sequence[str]) -> dict[str, Any]:
        from plugin.config import export  # noqa: PLC0415 — as above

        return export.document(self._writer.store.snapshot.settings)

    async def _sim(self, arguments: Sequence[str]) -> dict[str, Any]:
        if self._simulate is None:
            raise ControlError(
                "this daemon runs on a real driver", "sim commands need one with --simulate"
            )
        name, *rest = arguments
        return {"text": self._simulate(name, rest)}

    async def _release(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Let go of the driver; answered when nothing of it is held, or with what is."""
        limit, *targets = arguments
        snapshot = self._writer.store.snapshot
        try:
            seconds = LIMIT.parse(limit)
        except ValueError:
            raise ControlError(f"--for: {quote(limit)} is not valid", LIMIT.choices) from None
        uuids = resolve_gpus(snapshot, targets)
        gpus = [gpu for gpu in snapshot.inventory.gpus if gpu.uuid in uuids]
        left = await self._writer.release(uuids, seconds)
        out = f"GPU {', '.join(gpu.path for gpu in gpus)}" if gpus else "no GPU"
        text = (
            f"not released: {'; '.join(left)}; it is released once it can be, and `resume` ends "
            "the attempt"
            if left
            else f"released for {seconds:g} s: this daemon holds nothing of the driver; {out} out "
            "of service until `resume`"
        )
        return {"text": text, "released": not left, "warning": self._still_used(gpus)}

    async def _resume(self, _: Sequence[str]) -> dict[str, Any]:
        """End a release; answered when the driver has been read, or could not be."""
        before = self._writer.store.snapshot.release
        left = await self._writer.resume()
        snapshot = self._writer.store.snapshot
        gpus = snapshot.inventory.gpus
        devices = sum(len(gpu.mig_devices) for gpu in gpus)
        failed = snapshot.driver_error.text if snapshot.driver_error is not None else None
        if before is None:
            text, failed = "the driver was not released", None
        elif left is not None:
            text = "the driver is still being opened: see `mig-device-plugin devices`"
        elif failed is not None:
            text = f"resumed, but the driver cannot be used yet: {failed}"
        else:
            text = (
                f"resumed: {len(gpus)} GPU{'s' * (len(gpus) != 1)} with {devices} MIG "
                f"device{'s' * (devices != 1)}"
            )
        return {"text": text, "resumed": left is None and failed is None, "warning": None}

    def _still_used(self, gpus: Sequence[Gpu]) -> str | None:
        """Who would keep these GPUs from being reset, as far as known."""
        uuids = [uuid for gpu in gpus for uuid in (gpu.uuid, *(d.uuid for d in gpu.mig_devices))]
        holders = containers(of_devices(self._holdings().holders, uuids))
        if not holders:
            return None
        return f"pods still use these GPUs, which cannot be reset: {', '.join(holders)}"

    async def _change(self, verb: str, arguments: Sequence[str]) -> dict[str, Any]:
        """Change a device's entry in the ledger; answered when that is on disk, or could not be
        written.
        """
        writer, (target,) = self._writer, arguments
        await writer.judged()  # a command is about everything that came before it
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
                fewer, plural = faults - self._faults(devices), "s" * (faults != 1)
                done = (
                    f"is cleared of {fewer} of {faults} fault{plural}"
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


def resolve_gpus(snapshot: Snapshot, targets: Sequence[str]) -> frozenset[str]:
    """The UUIDs of the GPUs that an operator names by index or UUID; ``all``, and none named, are
    all of them. Raises :class:`TargetError`.
    """
    gpus = snapshot.inventory.gpus
    known = {name: gpu.uuid for gpu in gpus for name in (gpu.path, gpu.uuid)}
    every = frozenset(gpu.uuid for gpu in gpus)
    if not targets or "all" in targets:
        return every
    if unknown := [target for target in targets if target not in known]:
        raise TargetError(
            f"{quote(unknown[0])} is no GPU of this node",
            f"choose all, a GPU's UUID or one of {', '.join(g.path for g in gpus) or 'none'}",
        )
    return frozenset(known[target] for target in targets)


def _name(uuid: str, device: Device | None) -> str:
    if device is None:
        return f"{uuid}, which is not there now,"
    kind = "MIG device" if isinstance(device, MigDevice) else "GPU"
    return f"{kind} {device.path} ({uuid})"
