"""Bearer tokens that clients must have, read again when their file changes."""

from __future__ import annotations

import hmac
import logging
import re

from plugin.config import bounded
from plugin.web.http.message import Request, Response
from plugin.web.http.tls import file_stamp

log = logging.getLogger(__name__)

_LARGEST = 64 * 1024
#: What a client can send (RFC 6750).
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_AUTHORIZATION = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_REFUSED = Response(
    401,
    b"a token is needed here: send it as Authorization: Bearer TOKEN\n",
    headers={"WWW-Authenticate": 'Bearer realm="mig-device-plugin"', "Cache-Control": "no-store"},
)


class Bearers:
    """Who has one of the tokens in a file, one a line: with two, the old one goes on while clients
    change to the new one. While the file was never usable nobody is let in.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._tokens: tuple[bytes, ...] = ()
        self._stamp = file_stamp(path)
        self._read()

    def refusal(self, request: Request) -> Response | None:
        """The answer to a client without a token; ``None`` for one that has it. One call of
        ``stat``, and reading only what changed.
        """
        self._refresh()
        sent = _AUTHORIZATION.fullmatch(request.headers.get("authorization", "").strip())
        given = sent[1].encode(errors="surrogateescape") if sent else b""
        # All of them, in constant time each: how long it takes tells nothing about any.
        found = [hmac.compare_digest(given, token) for token in self._tokens]
        return None if any(found) else _REFUSED

    def _refresh(self) -> None:
        stamp = file_stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            if self._read():
                log.info("token read again", extra={"file": self._path})

    def _read(self) -> bool:
        try:
            self._tokens = _read(self._path)
        except (OSError, ValueError) as error:
            log.warning(
                "the token file cannot be used",
                extra={"file": self._path, "reason": str(error), "kept": bool(self._tokens)},
            )
            return False
        return True


def _read(path: str) -> tuple[bytes, ...]:
    """Raises OSError and ValueError, whose texts repeat nothing of the file."""
    lines = (line.strip() for line in bounded.read(path, _LARGEST).splitlines())
    tokens = tuple(filter(None, lines))
    if not tokens:
        raise ValueError(f"{path} has no token")
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise ValueError(f"{path} has a line that is no token: choose of A-Z a-z 0-9 . _ ~ + / - =")
    return tokens
