"""Bearer tokens that clients must send, reloaded when their file changes."""

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
    b"a token is required: send Authorization: Bearer TOKEN\n",
    headers={"WWW-Authenticate": 'Bearer realm="mig-device-plugin"', "Cache-Control": "no-store"},
)


class Bearers:
    """The tokens in a file, one per line: with two, clients can change from the old to the new one.
    Until the file has been usable once, every client is refused.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._tokens: tuple[bytes, ...] = ()
        self._stamp = file_stamp(path)
        self._read()

    def refusal(self, request: Request) -> Response | None:
        """The answer to a client without a valid token, else ``None``. Costs one ``stat``; the
        file is read only when it has changed.
        """
        self._refresh()
        sent = _AUTHORIZATION.fullmatch(request.headers.get("authorization", "").strip())
        given = sent[1].encode(errors="surrogateescape") if sent else b""
        # All of them, in constant time each, so that the duration reveals nothing.
        found = [hmac.compare_digest(given, token) for token in self._tokens]
        return None if any(found) else _REFUSED

    def _refresh(self) -> None:
        stamp = file_stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            if self._read():
                log.info("tokens reloaded", extra={"file": self._path})

    def _read(self) -> bool:
        try:
            self._tokens = _read(self._path)
        except (OSError, ValueError) as error:
            log.warning(
                "token file unusable",
                extra={"file": self._path, "reason": str(error), "kept": bool(self._tokens)},
            )
            return False
        return True


def _read(path: str) -> tuple[bytes, ...]:
    """Raises OSError and ValueError, whose texts repeat nothing of the file."""
    lines = (line.strip() for line in bounded.read(path, _LARGEST).splitlines())
    tokens = tuple(filter(None, lines))
    if not tokens:
        raise ValueError(f"{path} has no tokens")
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise ValueError(f"{path} has a line that is no token: use A-Z a-z 0-9 . _ ~ + / - =")
    return tokens
