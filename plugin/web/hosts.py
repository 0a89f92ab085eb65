"""Which names a client may use for this server.

A page of another site can make a browser ask here under that site's name, by letting the name
resolve to this node (DNS rebinding), and then read the answer. It cannot make the browser send
another name than its own, so only names that belong here are served. An IP address needs no
resolving.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

#: Of a ``Host`` header: an IPv6 address in brackets or a name, and a port.
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::\d*)?")


class Hosts:
    """``names`` beside literal IP addresses and localhost; ``*.NAME`` is every name below NAME, and
    ``*`` every name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = {_plain(name) for name in names if name}
        self._exact = {"localhost", *known}
        self._below = tuple(name.removeprefix("*") for name in known if name.startswith("*."))

    def serves(self, header: str | None) -> bool:
        """Whether the ``Host`` header names this server. Without one (HTTP/1.0) it was no
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
