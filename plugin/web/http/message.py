"""Requests and responses as the routes see them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field


class Request(Struct, frozen=True):
    """``path`` is without the query; header names are lower case, repeated headers are joined by
    commas.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Response(Struct, frozen=True):
    """``headers`` besides content type, length and date."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def utf8(text: str) -> bytes:
    """Names come from files and drivers: a lone surrogate, which cannot be encoded, becomes
    U+FFFD.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()
