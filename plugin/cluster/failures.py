"""Foreign exceptions become :class:`ClusterUnreachable`, here and nowhere else."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import h11

from plugin.core.quote import shorten
from plugin.errors import ClusterUnreachable


class Cause(enum.StrEnum):
    """Why there was no usable answer."""

    NAME = "name-not-resolved"
    REFUSED = "connection-refused"
    NO_ROUTE = "no-route"
    RESET = "connection-lost"
    CERTIFICATE = "certificate-not-trusted"
    TLS = "tls-failed"
    TIMEOUT = "timeout"
    INVALID = "invalid-answer"
    TOO_LARGE = "answer-too-large"
    CREDENTIALS = "credentials"


FIXES = {
    Cause.NAME: "check the host name and the node's DNS",
    Cause.REFUSED: "check that the API server runs, and kube-proxy for the service's address",
    Cause.NO_ROUTE: "check the node's routes and network policies",
    Cause.CERTIFICATE: "check ca.crt of the service account, or the kubeconfig's certificate "
    "authority and host name",
}

#: ``errno`` of a host that cannot be reached.
_NO_ROUTE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES})


class TooLarge(Exception):
    """The answer exceeds its limit."""


class InvalidAnswer(Exception):
    """The answer is JSON, but not what the API sends."""


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object, of which nothing else is known."""
    try:
        found = json.loads(body)
    # Python refuses numbers of more than a few thousand digits with a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(shorten(str(error) or type(error).__name__)) from error
    if not isinstance(found, dict):
        raise InvalidAnswer("the answer is no JSON object")
    return found


def cause_of(error: Exception) -> Cause | None:
    """``None`` for an exception that is a mistake of ours."""
    kinds: tuple[tuple[type[Exception], Cause], ...] = (
        (TimeoutError, Cause.TIMEOUT),
        (socket.gaierror, Cause.NAME),
        (ssl.SSLCertVerificationError, Cause.CERTIFICATE),
        (ssl.SSLError, Cause.TLS),
        (ConnectionRefusedError, Cause.REFUSED),
        (ConnectionError, Cause.RESET),
        (EOFError, Cause.RESET),
        (TooLarge, Cause.TOO_LARGE),
        (h11.RemoteProtocolError, Cause.INVALID),
        (json.JSONDecodeError, Cause.INVALID),
        (InvalidAnswer, Cause.INVALID),
        (UnicodeError, Cause.INVALID),
        (RecursionError, Cause.INVALID),
    )
    for kind, cause in kinds:
        if isinstance(error, kind):
            return cause
    if isinstance(error, OSError):
        return Cause.NO_ROUTE if error.errno in _NO_ROUTE else Cause.RESET
    return None


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Whatever the network, TLS or parsers raise inside becomes one error of ours; `doing` says
    what failed.
    """
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise ClusterUnreachable(
            f"{doing}: {cause.value.replace('-', ' ')}: {text}", FIXES.get(cause, ""), cause=cause
        ) from error
