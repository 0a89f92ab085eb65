"""The daemon's control socket: commands of root or of the daemon's own user, one line of JSON each
way.

A request is ``{"verb": …, "arguments": [text, …]}``; the answer is ``{"ok": …}`` or ``{"error":
"one line"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plugin.control.listener import Listener
from plugin.core.health.ledger import is_cordoned, of
from plugin.core.inventory.model import Device, MigDevice
from plugin.core.reasons import Code
from plugin.core.status import document
from plugin.errors import ControlError, NotRunning, PluginError
from plugin.state.writer import Node

log = logging.getLogger(__name__)

REQUEST_BYTES = 4096
#: For one client, from its connection to the last byte of its answer.
CLIENT_SECONDS = 10.0
MOST_CLIENTS = 16
#: Between two attempts to listen, and between two looks whether the socket's file is still ours.
LOOK_SECONDS = 5.0
#: How long :func:`ask` waits for an answer: longer than the daemon takes to give up.
ANSWER_SECONDS = 15.0

_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group

#: A verb of the simulated node and its arguments → what was done.
Simulate = Callable[[str, Sequence[str]], str]


class Control:
    """Answers commands on a socket of its own. Whatever its clients do, nothing but their own
    connection suffers.
    """

    def __init__(
        self,
        path: Path,
        node: Node,
        simulate: Simulate | None = None,
        *,
        client_seconds: float = CLIENT_SECONDS,
    ) -> None:
        """`simulate` carries out the ``sim`` verbs; ``None`` where the driver is a real one."""
        self._path = path
        self._node = node
        self._simulate = simulate
        self._client_seconds = client_seconds
        self._serving = False
        self._clients: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen until cancelled, and again when the socket's file was taken away; then the file is
        gone.

        A socket that cannot be had, for instance because another daemon listens there, is
        complained of once and tried again: the daemon does its work without.
        """
        complained = False
        while True:
            try:
                listener = Listener(self._path)
            except (ControlError, OSError) as error:
                if not complained:
                    log.warning(
                        "commands cannot reach this daemon",
                        extra={"socket": str(self._path), "reason": str(error)},
                    )
                complained = True
                await asyncio.sleep(LOOK_SECONDS)
                continue
            complained = False
            with listener:
                await self._serve(listener)

    async def _serve(self, listener: Listener) -> None:
        server = await asyncio.start_unix_server(
            self._client, sock=listener.socket, limit=REQUEST_BYTES
        )
        self._serving = True
        log.debug("listening for commands", extra={"socket": str(self._path)})
        try:
            while listener.is_ours():  # noqa: ASYNC110 — nobody announces that a file was removed
                await asyncio.sleep(LOOK_SECONDS)
            log.warning(
                "the control socket was taken away, making a new one",
                extra={"socket": str(self._path)},
            )
        finally:
            self._serving = False
            server.close()
            for client in self._clients:
                client.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or not self._serving or len(self._clients) >= MOST_CLIENTS:
            writer.transport.abort()
            return
        self._clients.add(task)
        writer.transport.set_write_buffer_limits(0)  # drain() waits for the last byte
        try:
            async with asyncio.timeout(self._client_seconds):
                answer = await self._answer(reader, writer)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
            writer.close()
        except (TimeoutError, OSError) as error:
            log.debug("a client of the control socket went away", extra={"reason": repr(error)})
        finally:
            self._clients.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        try:
            # Read before anything is refused: who is answered before it has sent gets an error from
            # sending.
            line = await reader.readuntil(b"\n")
            pid, uid = _peer(writer.get_extra_info("socket"))
            if uid not in {0, os.geteuid()}:
                raise ControlError("only root and the daemon's own user may give it commands")
            verb, arguments = _parse(line)
            if verb != "status":
                log.info(
                    "command", extra={"verb": verb, "arguments": arguments, "pid": pid, "uid": uid}
                )
            return {"ok": await self._perform(verb, arguments)}
        except asyncio.LimitOverrunError:
            return {"error": f"a request has at most {REQUEST_BYTES} bytes"}
        except asyncio.IncompleteReadError:
            return {"error": "a request ends with a line break"}
        except PluginError as error:
            return {"error": " ".join(str(error).split())}

    # ---- verbs

    async def _perform(self, verb: str, arguments: Sequence[str]) -> Any:
        match verb, arguments:
            case "status", []:
                return document(self._node.store.snapshot, "daemon")
            case "cordon" | "uncordon" | "clear", [target]:
                return await self._mark(verb, target)
            case "sim", [name, *rest]:
                if self._simulate is None:
                    raise ControlError(
                        "this daemon runs on a real driver",
                        "sim commands need one with --simulate",
                    )
                return {"text": self._simulate(name, rest)}
            case "status" | "cordon" | "uncordon" | "clear" | "sim", _:
                raise ControlError(f"{verb} does not take {len(arguments)} arguments")
        raise ControlError(
            f"unknown verb {verb!r}", "choose status, cordon, uncordon, clear or sim"
        )

    async def _mark(self, verb: str, target: str) -> dict[str, Any]:
        """Change a device's entry in the ledger; answered when that is on disk, or could not be
        written.
        """
        node = self._node
        uuid = node.resolve(target)
        cordoned = self._is_cordoned(uuid)
        device = self._device(uuid)
        devices = [uuid, *(part.uuid for part in (device.parts if device else ()))]
        match verb:
            case "cordon":
                node.cordon(uuid)
                done = "was cordoned already" if cordoned else "is cordoned"
            case "uncordon":
                node.uncordon(uuid)
                done = "is no longer cordoned" if cordoned else "was not cordoned"
            case _:
                faults = self._faults(devices)
                node.clear(uuid)
                fewer = faults - self._faults(
                    devices
                )  # a GPU that still says itself what is wrong keeps that
                done = (
                    f"has {fewer} reason{'s' * (fewer != 1)} fewer"
                    if faults
                    else "had nothing to clear"
                )
        words = f"{_words(uuid, device)} {done}"
        if (
            verb == "uncordon"
            and device is not None
            and device.gpu_uuid != uuid
            and self._is_cordoned(device.gpu_uuid)
        ):
            words += f", but its GPU is: uncordon {device.gpu_index}"
        problem = await node.saved()
        return {
            "text": words,
            "uuid": uuid,
            "devices": devices,
            "warning": f"this is not saved and ends with the daemon: {problem}"
            if problem
            else None,
        }

    def _device(self, uuid: str) -> Device | None:
        return self._node.store.snapshot.inventory.device(uuid)

    def _faults(self, uuids: Sequence[str]) -> int:
        """How many reasons other than cordons the ledger holds against these."""
        ledger = self._node.store.snapshot.ledger
        return sum(reason.code != Code.CORDONED for uuid in uuids for reason in of(ledger, uuid))

    def _is_cordoned(self, uuid: str) -> bool:
        return is_cordoned(self._node.store.snapshot.ledger, uuid)


def _words(uuid: str, device: Device | None) -> str:
    if device is None:
        return f"{uuid}, which is not there now,"
    kind = "MIG device" if isinstance(device, MigDevice) else "GPU"
    return f"{kind} {device.path} ({uuid})"


def _parse(line: bytes) -> tuple[str, list[str]]:
    """``(verb, arguments)``. Raises :class:`ControlError`."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError("a request is one line of JSON") from error
    match request:
        case {"verb": str(verb), "arguments": list(arguments)} if all(
            isinstance(a, str) for a in arguments
        ):
            return verb, arguments
    raise ControlError('a request is {"verb": text, "arguments": [text, …]}')


def _peer(connection: Any) -> tuple[int, int]:
    """``(process, user)`` at the other end, as the kernel knows them since the connection was
    made.
    """
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(pid), int(uid)


# ---- the other end


def ask(path: str, verb: str, *arguments: str) -> Any:
    """Have the daemon that listens on `path` carry out `verb`; returns its answer. Blocks.

    Raises :class:`NotRunning`, or :class:`ControlError` with the daemon's words.
    """
    if not path:
        raise NotRunning(
            "the control socket is switched off", "name the daemon's with --control-socket"
        )
    request = json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(path)
            # In a folder that others may write to, anybody could listen.
            if _peer(connection)[1] not in {0, os.geteuid()}:
                raise ControlError(
                    f"{path} belongs to another user's process",
                    "name the daemon's with --control-socket",
                )
            # A daemon that turns us away may not read what we say.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(request)
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(
                f"no daemon is running here: nothing listens on {path}",
                "start it, or name its socket with --control-socket",
            ) from error
        except OSError as error:
            raise ControlError(f"asking the daemon at {path} failed: {error}") from error
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ControlError(
            f"the daemon at {path} ended the connection without an answer", "try again"
        ) from error
    if "error" in answer:
        raise ControlError(answer["error"])
    return answer["ok"]
