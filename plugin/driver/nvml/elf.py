"""Whether a shared library is whole.

The dynamic loader maps a file without looking at its length. In one that is cut off, for instance
because it is still being copied, the first access behind the end kills the process with SIGBUS.
"""

from __future__ import annotations

import struct
from pathlib import Path

from msgspec import Struct

_IDENT_BYTES, _MAGIC = 16, b"\x7fELF"
_LITTLE_ENDIAN = 1
_LOAD, _NO_BITS = 1, 8


class _Layout(Struct, frozen=True):
    """Formats of the headers of one class of file, and which of their numbers are offset and size
    of a segment and of a section.
    """

    header: str
    program: str
    section: str
    segment_at: tuple[int, int]
    section_at: tuple[int, int]


#: By the class in the identification: 32 and 64 bits. In the header, both have the offsets and the
#: sizes of the tables at the same places.
_LAYOUTS = {
    1: _Layout("HHIIIIIHHHHHH", "IIIIIIII", "IIIIIIIIII", (1, 4), (4, 5)),
    2: _Layout("HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", (2, 5), (4, 5)),
}


def missing_bytes(path: Path) -> int:
    """How many bytes the file is shorter than its headers say.

    0 also for what is no ELF file, which the loader refuses by itself. Raises OSError.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        ident = file.read(_IDENT_BYTES)
        layout = _LAYOUTS.get(ident[4]) if len(ident) == _IDENT_BYTES else None
        if not ident.startswith(_MAGIC) or layout is None:
            return 0
        order = "<" if ident[5] == _LITTLE_ENDIAN else ">"
        header = file.read(struct.calcsize(order + layout.header))
        if len(header) < struct.calcsize(order + layout.header):
            return 0
        numbers = struct.unpack(order + layout.header, header)
        (programs, sections), (program_size, program_count, section_size, section_count) = (
            numbers[4:6],
            numbers[8:12],
        )
        end = max(programs + program_size * program_count, sections + section_size * section_count)
        for form, (offset, length), table, each, count in (
            (layout.program, layout.segment_at, programs, program_size, program_count),
            (layout.section, layout.section_at, sections, section_size, section_count),
        ):
            form_size = struct.calcsize(order + form)
            file.seek(table)
            rows = file.read(each * count)
            for at in range(0, len(rows) - form_size + 1, max(each, 1)):
                row = struct.unpack_from(order + form, rows, at)
                in_file = row[0] == _LOAD if form is layout.program else row[1] != _NO_BITS
                if in_file:
                    end = max(end, row[offset] + row[length])
        return max(0, int(end) - size)
