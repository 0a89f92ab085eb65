"""Accepted host names, against DNS rebinding.

A page of another site can point its own name at this node and so read our responses through the
visitor's browser. But it cannot change the ``Host`` header from that name, so only our own names
are accepted. IP addresses involve no name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

#: A ``Host`` header: an IPv6 address in brackets or a name, and a port.
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::\d*)?")


class Hosts:
    """Accepts ``names`` besides IP addresses and localhost; ``*.NAME`` is every name below NAME,
    ``*`` any.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = {_plain(name) for name in names if name}
        self._exact = {"localhost", *known}
        self._below = tuple(name.removeprefix("*") for name in known if name.startswith("*."))

    def serves(self, header: str | None) -> bool:
        """Whether to accept the ``Host`` header. Without one (HTTP/1.0) the client is no
        browser.
        """
        if header is None or "*" in self._exact:
            return True
        found = _HOST.fullmatch(header.strip())
        if found is None:
            return False
        address, name = found.groups()
        if address is not None:
            return _is_ip(address)
        name = _plain(name)
        return name in self._exact or name.endswith(self._below) or _is_ip(name)


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
