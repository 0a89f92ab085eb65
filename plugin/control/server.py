"""The daemon's control socket: commands of root or of the daemon's own user, one line of JSON each
way.

A request is ``{"verb": …, "arguments": [text, …]}``; the answer is ``{"ok": …}`` or ``{"error":
"one line"}``, with ``"invalid": true`` where what was asked for names nothing that there is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plugin.control.listener import Listener, peer
from plugin.control.verbs import Perform, Simulate, Verbs
from plugin.core.denial import explained
from plugin.core.holders import Holdings
from plugin.core.quote import shorten
from plugin.errors import ConfigError, ControlError, PluginError
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

#: Commands that change nothing.
_READING = frozenset({("status",), ("settings",), ("partition", "status")})

#: A MIG configuration may come with it.
REQUEST_BYTES = 64 * 1024
#: For one client, from its connection to the last byte of its answer.
CLIENT_SECONDS = 10.0
MOST_CLIENTS = 16
#: Between two attempts to listen, and between two looks whether the socket's file is still ours.
LOOK_SECONDS = 5.0


class Control:
    """Answers commands on a socket of its own. Whatever its clients do, nothing but their own
    connection suffers.
    """

    def __init__(
        self,
        path: Path,
        writer: Writer,
        simulate: Simulate | None = None,
        *,
        client_seconds: float = CLIENT_SECONDS,
        holdings: Callable[[], Holdings] = Holdings,
        partition: Perform | None = None,
    ) -> None:
        """`simulate` carries out the ``sim`` verbs; ``None`` where the driver is a real one.
        `holdings` is what is known about who holds devices; `partition` carries out the commands
        of partitioning.
        """
        self._path = path
        self._verbs = Verbs(writer, simulate, holdings, partition)
        self._client_seconds = client_seconds
        #: Set while clients can connect.
        self.listening = asyncio.Event()
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
                        extra={"socket": str(self._path), "reason": _reason(error)},
                    )
                complained = True
                await asyncio.sleep(LOOK_SECONDS)
                continue
            complained = False
            with listener:
                await self._serve(listener)

    async def _serve(self, listener: Listener) -> None:
        # Not start_unix_server: from Python 3.13 on that removes the socket's file itself, which is
        # for the listener to do while it holds its lock.
        server = await asyncio.start_server(self._client, sock=listener.socket, limit=REQUEST_BYTES)
        self.listening.set()
        log.debug("listening for commands", extra={"socket": str(self._path)})
        try:
            while listener.is_ours():  # noqa: ASYNC110 — nobody announces that a file was removed
                await asyncio.sleep(LOOK_SECONDS)
            log.warning(
                "the control socket was taken away, making a new one",
                extra={"socket": str(self._path)},
            )
        finally:
            self.listening.clear()
            server.close()
            for client in self._clients:
                client.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or not self.listening.is_set() or len(self._clients) >= MOST_CLIENTS:
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
            pid, uid = peer(writer.get_extra_info("socket"))
            if uid not in {0, os.geteuid()}:
                raise ControlError("only root and the daemon's own user may give it commands")
            verb, arguments = _parse(line)
            if verb not in {"status", "settings"} and (verb, arguments) != (
                "partition",
                ["status"],
            ):
                log.info(
                    "command",
                    extra={
                        "verb": shorten(verb),
                        "arguments": [shorten(argument) for argument in arguments],
                        "pid": pid,
                        "uid": uid,
                    },
                )
            return {"ok": await self._verbs.perform(verb, arguments)}
        except asyncio.LimitOverrunError:
            return {"error": f"a request has at most {REQUEST_BYTES} bytes"}
        except asyncio.IncompleteReadError:
            return {"error": "a request ends with a line break"}
        except PluginError as error:
            invalid = {"invalid": True} if isinstance(error, ConfigError) else {}
            return {"error": " ".join(str(error).split()), **invalid}


def _reason(error: ControlError | OSError) -> str:
    if isinstance(error, OSError):
        return explained("listening there failed", error, user=os.geteuid())
    return str(error)


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
