"""The server's certificate, reloaded when its files change."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

log = logging.getLogger(__name__)

#: A certificate chain has some thousand bytes.
_LARGEST = 2**20

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Tls(Struct, frozen=True):
    """PEM files: the certificate with its chain, and the unencrypted private key."""

    certificate: str
    key: str


class Certificate:
    """Provides the TLS context of the next handshake. A bad new pair is logged once and the old one
    stays in use.
    """

    def __init__(self, files: Tls) -> None:
        """Raises OSError (including ``ssl.SSLError``) for an unusable pair."""
        self._files = files
        self._stamp = _stamp(files)
        self._context = _load(files)

    def context(self) -> ssl.SSLContext:
        """The newest usable pair. Costs two ``stat`` calls; reads changed files only."""
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return self._context
        # Stamp before reading, so that a file that changes meanwhile is read again.
        self._stamp = stamp
        try:
            self._context = _load(self._files)
        except OSError as error:
            log.warning(
                "new certificate unusable, keeping the old one",
                extra={"reason": str(error)},
            )
        else:
            log.info("certificate reloaded", extra={"file": self._files.certificate})
        return self._context


def _load(files: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # An empty password makes an encrypted key an error; without one, OpenSSL would prompt on the
    # terminal.
    try:
        with _regular(files.certificate) as certificate, _regular(files.key) as key:
            context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # does not name the file
        raise OSError(
            f"{files.certificate} and {files.key} are not a certificate and its key: {error}"
        ) from error
    return context


@contextlib.contextmanager
def _regular(path: str) -> Iterator[str]:
    """A path by which OpenSSL opens exactly this file. Refuses anything but regular files, since
    reading a FIFO could block forever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a regular file")
        if found.st_size > _LARGEST:
            raise OSError(f"{path} has more than {_LARGEST} bytes")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _stamp(files: Tls) -> _Stamp:
    return tuple(file_stamp(path) for path in (files.certificate, files.key))


def file_stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file is written or, as for a mounted secret, its folder is exchanged."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
