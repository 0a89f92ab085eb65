"""SONAME and machine of a shared library, from its ELF headers."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
#: ELF, 64 bits, little endian: the machines that have data center GPUs.
_IDENTITY = b"\x7fELF\x02\x01"
_MACHINES = {62: "x86_64", 183: "aarch64"}
_LOAD, _DYNAMIC_SEGMENT = 1, 2
_NULL, _STRINGS, _SONAME = 0, 5, 14
#: Far above what libraries have.
_MOST_SEGMENTS, _MOST_DYNAMIC, _MOST_NAME = 256, 65_536, 256
_NAME = re.compile(rb"lib[A-Za-z0-9_.+-]{1,200}")


class SharedObject(NamedTuple):
    soname: str
    machine: str


def read(path: Path) -> SharedObject | None:
    """``None`` for everything but a library of a machine that we know. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return _read(descriptor)
    except (struct.error, OverflowError):
        return None  # shorter than its headers say, or of another form
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> SharedObject | None:
    header = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
    ident, machine, programs, size, count = (header[n] for n in (0, 2, 5, 9, 10))
    if not ident.startswith(_IDENTITY) or size != _PROGRAM.size or count > _MOST_SEGMENTS:
        return None
    table = os.pread(descriptor, size * count, programs)
    segments = [_PROGRAM.unpack_from(table, n * size) for n in range(count)]
    dynamic = next((row for row in segments if row[0] == _DYNAMIC_SEGMENT), None)
    if machine not in _MACHINES or dynamic is None:
        return None
    found: dict[int, int] = {}
    content = os.pread(descriptor, min(dynamic[5], _MOST_DYNAMIC), dynamic[2])
    for at in range(0, len(content) - _DYNAMIC.size + 1, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(content, at)
        if tag == _NULL:
            break
        found[tag] = value
    if _SONAME not in found or _STRINGS not in found:
        return None
    for row in segments:
        offset, address, length = row[2], row[3], row[5]
        if row[0] == _LOAD and address <= found[_STRINGS] < address + length:
            at = offset + found[_STRINGS] - address + found[_SONAME]
            name, _, _ = os.pread(descriptor, _MOST_NAME, at).partition(b"\0")
            # It becomes a file's name in containers.
            known = _NAME.fullmatch(name)
            return SharedObject(name.decode("ascii"), _MACHINES[machine]) if known else None
    return None
