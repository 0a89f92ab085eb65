"""The server's certificate, read again when its files change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the certificate with its chain, and the private key (not encrypted)."""

    certificate: str
    key: str


class Certificate:
    """Gives the context for the next handshake. A pair that cannot be used is told once and the one
    before stays.
    """

    def __init__(self, files: Tls) -> None:
        """Raises OSError (``ssl.SSLError`` among them) when the pair cannot be used."""
        self._files = files
        self._stamp = _stamp(files)
        self._context = _load(files)

    def context(self) -> ssl.SSLContext:
        """The newest usable pair. Two calls of ``stat``, and reading only what changed."""
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return self._context
        # Noted before reading: a file that is written meanwhile is read again next time, whatever
        # comes of this.
        self._stamp = stamp
        try:
            self._context = _load(self._files)
        except OSError as error:
            log.warning(
                "the new certificate cannot be used, the old one stays",
                extra={"reason": str(error)},
            )
        else:
            log.info("certificate read again", extra={"file": self._files.certificate})
        return self._context


def _load(files: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # With an empty password an encrypted key is an error; without one, OpenSSL would ask at the
    # terminal.
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except OSError as error:  # which names no file
        raise OSError(
            f"{files.certificate} and {files.key} are not a certificate and its key: {error}"
        ) from error
    return context


def _stamp(files: Tls) -> _Stamp:
    """What changes when a file is written or, as for a mounted secret, its folder is exchanged."""
    return tuple(_state(path) for path in (files.certificate, files.key))


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
