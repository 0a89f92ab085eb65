"""The dynamic loader's cache, ``/etc/ld.so.cache``, of another root than our own.

Read by us, because ``ldconfig -p`` prints that of its own root. The file may be of any content:
what does not fit is left out, and nothing is read beyond its end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

#: Those of large installations have some 300 KiB.
MOST_BYTES = 8 * 2**20

_OLD_MAGIC, _OLD_HEADER_BYTES, _OLD_ENTRY_BYTES = b"ld.so-1.7.0", 16, 12
_MAGIC = b"glibc-ld.so.cache1.1"
#: Magic, number of entries, bytes of strings, and what is of no interest here.
_HEADER = struct.Struct("<20sII20x")
#: Flags, offsets of name and path from the header on, and what is of no interest here.
_ENTRY = struct.Struct("<iII12x")
#: Of a name or a path, as Linux limits them.
_MOST_CHARACTERS = 4096
_OLD_ALIGNMENT = 8


def paths(cache: bytes) -> Iterator[tuple[str, str]]:
    """``(name, path)`` of each library, in the loader's order; of all machines that share the
    root.
    """
    start = _start(cache)
    if start is None:
        return
    _, count, _ = _HEADER.unpack_from(cache, start)
    first = start + _HEADER.size
    count = min(count, (len(cache) - first) // _ENTRY.size)
    for at in range(first, first + count * _ENTRY.size, _ENTRY.size):
        _, name, path = _ENTRY.unpack_from(cache, at)
        texts = _text(cache, start + name), _text(cache, start + path)
        if texts[0] and texts[1].startswith("/"):
            yield texts


def _start(cache: bytes) -> int | None:
    """Where the header of the present format stands: older ones have another format before it."""
    start = 0
    if cache.startswith(_OLD_MAGIC) and len(cache) >= _OLD_HEADER_BYTES:
        (count,) = struct.unpack_from("<I", cache, 12)
        start = _OLD_HEADER_BYTES + count * _OLD_ENTRY_BYTES
        start += -start % _OLD_ALIGNMENT
    is_there = cache.startswith(_MAGIC, start) and len(cache) >= start + _HEADER.size
    return start if is_there else None


def _text(cache: bytes, at: int) -> str:
    end = cache.find(b"\0", at, at + _MOST_CHARACTERS)
    try:
        return cache[at:end].decode() if end > at else ""
    except UnicodeDecodeError:
        return ""
