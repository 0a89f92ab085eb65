"""Asking the running daemon over its control socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

from plugin.control.listener import peer
from plugin.errors import ConfigError, ControlError, NoAnswer, NotRunning

#: How long :func:`ask` waits for an answer: longer than the daemon takes to give up.
ANSWER_SECONDS = 15.0


def ask(path: str, verb: str, *arguments: str) -> Any:
    """Have the daemon that listens on `path` carry out `verb`; returns its answer. Blocks.

    Raises :class:`NotRunning` or :class:`NoAnswer`; or with the daemon's words
    :class:`ConfigError` for a name or value that it does not know, and else :class:`ControlError`.
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
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(
                f"no daemon is running here: nothing listens on {path}",
                "start it, or name its socket with --control-socket",
            ) from error
        except OSError as error:
            raise ControlError(f"asking the daemon at {path} failed: {error}") from error
        try:
            # In a folder that others may write to, anybody could listen.
            if peer(connection)[1] not in {0, os.geteuid()}:
                raise ControlError(
                    f"{path} belongs to another user's process",
                    "name the daemon's with --control-socket",
                )
            # A daemon that turns us away may not read what we say.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(request)
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except OSError as error:
            raise NoAnswer(f"asking the daemon at {path} failed: {error}") from error
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise NoAnswer(
            f"the daemon at {path} ended the connection without an answer", "try again"
        ) from error
    if "error" in answer:
        raise (ConfigError if answer.get("invalid") else ControlError)(answer["error"])
    return answer["ok"]
