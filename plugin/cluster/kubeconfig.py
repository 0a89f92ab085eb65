"""Credentials from a kubeconfig file, for running outside of a pod."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugin.cluster.credentials import Fixed, Server, TokenFile, is_token, read_file, trusting
from plugin.config import document
from plugin.errors import ClusterUnreachable, ConfigError

#: What would need another program or another protocol, with what to use instead.
_UNSUPPORTED = {
    "exec": "a token, tokenFile or client certificate",
    "auth-provider": "a token, tokenFile or client certificate",
    "username": "a token, tokenFile or client certificate",
    "as": "the credentials of that user",
    "proxy-url": "a server that can be reached directly",
}


def load(path: Path, context: str = "") -> Fixed:
    """The credentials of `context`, else of the current one. Raises :class:`ConfigError`."""
    title = f"kubeconfig {path}"
    root = _mapping(title, document.read(title, path))
    name = context or str(root.get("current-context") or "")
    chosen = _named(title, root, "contexts", name).get("context")
    chosen = _mapping(f"{title}: context {name}", chosen)
    cluster_name, user_name = str(chosen.get("cluster") or ""), str(chosen.get("user") or "")
    cluster = _mapping(title, _named(title, root, "clusters", cluster_name).get("cluster"))
    user: Mapping[str, Any] = {}
    if user_name:
        user = _mapping(title, _named(title, root, "users", user_name).get("user") or {})
    for key in (*user, *cluster):
        if key in _UNSUPPORTED:
            raise ConfigError(f"{title}: {key} is not supported", f"use {_UNSUPPORTED[key]}")
    token = user.get("token")
    if token is not None and not is_token(str(token)):
        raise ConfigError(f"{title}: token is empty or holds a line break", "check the file")
    server = _server(title, cluster)
    reader = _Reader(title, path.parent)
    return Fixed(
        server,
        _tls(reader, cluster, user) if server.tls else None,
        None if token is None else str(token),
        TokenFile(path.parent / str(user["tokenFile"])) if user.get("tokenFile") else None,
    )


def _server(title: str, cluster: Mapping[str, Any]) -> Server:
    address = str(cluster.get("server") or "")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigError(
            f"{title}: server is {address!r}", "name a URL such as https://10.0.0.1:6443"
        )
    tls = parts.scheme == "https"
    return Server(
        host,
        port or (443 if tls else 80),
        tls,
        str(cluster.get("tls-server-name") or host),
        parts.path.rstrip("/"),
    )


class _Reader:
    """Values that stand in the file as base64, or in a file beside it."""

    def __init__(self, title: str, folder: Path) -> None:
        self.title = title
        self._folder = folder

    def value(self, entry: Mapping[str, Any], key: str) -> bytes | None:
        if data := entry.get(f"{key}-data"):
            try:
                return base64.b64decode(str(data), validate=True)
            except ValueError as error:
                raise ConfigError(f"{self.title}: {key}-data is no base64: {error}") from error
        if not (name := entry.get(key)):
            return None
        try:
            return read_file(self._folder / str(name))
        except ClusterUnreachable as error:
            raise ConfigError(f"{self.title}: {key}: {error.what}") from error


def _tls(reader: _Reader, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = reader.value(cluster, "certificate-authority")
    try:
        if authority is not None:
            context = trusting(authority, f"{reader.title}: certificate-authority")
        else:
            context = ssl.create_default_context()
    except ClusterUnreachable as error:
        raise ConfigError(error.what) from error
    if cluster.get("insecure-skip-tls-verify") is True:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = (reader.value(user, f"client-{part}") for part in ("certificate", "key"))
    if certificate is None and key is None:
        return context
    if certificate is None or key is None:
        raise ConfigError(
            f"{reader.title}: client-certificate and client-key belong together", "set both"
        )
    _present(reader.title, context, certificate + b"\n" + key)
    return context


def _present(title: str, context: ssl.SSLContext, pair: bytes) -> None:
    # ssl reads certificates of its own from files only; this one has no name and needs no disk.
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair)
        # Without a password an encrypted key would ask for one on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{title}: client-certificate and client-key cannot be used: {error}",
            "check that they are PEM, belong together, and that the key is not encrypted",
        ) from error
    finally:
        os.close(descriptor)


def _named(title: str, root: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    entries = root.get(kind)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    known = [
        str(entry.get("name"))
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
    ]
    raise ConfigError(
        f"{title}: {kind} has no {name!r}", f"choose among {', '.join(known)}" if known else ""
    )


def _mapping(title: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{title}: is not a kubeconfig", "check the file")
    return value
