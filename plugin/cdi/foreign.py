"""Devices in CDI specifications that other programs wrote, beside ours."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from plugin.config import bounded
from plugin.core.cdi.names import DOMAIN
from plugin.errors import ConfigError


class _Read(NamedTuple):
    stamp: tuple[int, ...]
    devices: frozenset[str]


class ForeignSpecifications:
    """Remembers what a file has until the file is another: NVIDIA's own takes some 100 ms to parse,
    and is looked at with every scan.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._known: dict[Path, _Read] = {}

    def devices(self, paths: Iterable[Path]) -> dict[Path, frozenset[str]]:
        """Full names by file. A file that cannot be read has none: runtimes cannot read it
        either. Blocks.
        """
        found = {}
        for path in paths:
            try:
                status = path.stat()
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                known = self._known.get(path)
                if known is None or known.stamp != stamp:
                    known = _Read(stamp, _names(bounded.read(path, self._most_bytes)))
            except OSError:
                continue
            found[path] = known
        self._known = found
        return {path: read.devices for path, read in found.items()}


def _names(content: bytes) -> frozenset[str]:
    document = _parsed(content)
    if not isinstance(document, dict) or not isinstance(document.get("devices"), list):
        return frozenset()
    named = [device.get("name") for device in document["devices"] if isinstance(device, dict)]
    kind = document.get("kind")
    return frozenset(f"{kind}={name}" for name in named if isinstance(name, str))


def _parsed(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        pass
    if DOMAIN.encode() not in content:
        return None  # YAML takes long
    from plugin.config import document  # noqa: PLC0415 — YAML, which few nodes need here

    try:
        return document.parse("the file", content.decode())
    except (ConfigError, ValueError):
        return None
