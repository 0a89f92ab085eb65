"""Where the API server is, and how it and we know each other."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec import Struct

from plugin.cluster.failures import Cause
from plugin.config import bounded
from plugin.errors import ClusterUnreachable, ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: How often client-go, too, reads the token again.
TOKEN_SECONDS = 60.0


class Server(NamedTuple):
    """``host`` is without brackets; ``name`` is what the certificate must show."""

    host: str
    port: int
    tls: bool = True
    name: str = ""
    path: str = ""  # before every path of the API, as behind Rancher

    @property
    def authority(self) -> str:
        """For the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


class Credentials(Protocol):
    """Files are read again by path when they may have changed. Raises
    :class:`ClusterUnreachable`.
    """

    @property
    def server(self) -> Server:
        """Where to connect."""

    def context(self) -> ssl.SSLContext | None:
        """For a new connection; the same object as long as the files are the same. ``None`` for
        plain HTTP.
        """

    def token(self, *, again: bool = False) -> str | None:
        """The bearer token; `again` reads it now, after the API server refused it."""


def is_token(text: str) -> bool:
    """Whether it can stand in a header."""
    return bool(text) and text.isascii() and text.isprintable()


class TokenFile:
    """A token that is replaced before it expires: read each minute."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._token = ""
        self._read = -TOKEN_SECONDS

    def read(self, *, again: bool = False) -> str:
        now = self._clock()
        if again or not self._token or now - self._read >= TOKEN_SECONDS:
            self._token = read_file(self._path).decode("ascii", "replace").strip()
            self._read = now
            if not is_token(self._token):
                self._token = ""
                raise ClusterUnreachable(
                    f"the token in {self._path} is empty or no token",
                    "check the pod's service account",
                    cause=Cause.CREDENTIALS,
                )
        return self._token


class ServiceAccount:
    """A pod's own credentials; kubelet replaces the files."""

    def __init__(
        self,
        server: Server,
        folder: Path = SERVICE_ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self._folder = folder
        self._token = TokenFile(folder / "token", clock)
        self._authority = b""
        self._context: ssl.SSLContext | None = None

    def token(self, *, again: bool = False) -> str:
        return self._token.read(again=again)

    def context(self) -> ssl.SSLContext | None:
        if not self.server.tls:
            return None
        authority = read_file(self._folder / "ca.crt")
        if self._context is None or authority != self._authority:
            self._context = trusting(authority, str(self._folder / "ca.crt"))
            self._authority = authority
        return self._context


class Fixed(Struct, frozen=True):
    """Credentials that do not change, but for a token in a file."""

    server: Server
    tls: ssl.SSLContext | None = None
    token_text: str | None = None
    token_file: TokenFile | None = None

    def token(self, *, again: bool = False) -> str | None:
        return self.token_file.read(again=again) if self.token_file else self.token_text

    def context(self) -> ssl.SSLContext | None:
        return self.tls


def in_cluster(
    environment: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT
) -> ServiceAccount:
    """The credentials of the pod that we run in. Raises :class:`ConfigError` outside of one."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "").strip("[]")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdecimal():
        raise ConfigError(
            "the cluster's API server is unknown: KUBERNETES_SERVICE_HOST and "
            "KUBERNETES_SERVICE_PORT are not set",
            "run in a pod, or name a kubeconfig file",
        )
    return ServiceAccount(Server(host, int(port), name=host), folder)


def trusting(authority: bytes, title: str) -> ssl.SSLContext:
    """A context that trusts these certificates (PEM) alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ClusterUnreachable(
            f"{title} holds no certificates: {error}", cause=Cause.CREDENTIALS
        ) from error
    return context


def read_file(path: Path) -> bytes:
    """Raises :class:`ClusterUnreachable`."""
    try:
        return bounded.read(path)
    except (OSError, ValueError) as error:
        raise ClusterUnreachable(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            "mount the service account's token (automountServiceAccountToken)",
            cause=Cause.CREDENTIALS,
        ) from error
