"""Driver installations on disk, made of small files: libraries with real ELF headers and a loader's
cache.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path

RECORDINGS = Path(__file__).resolve().parent / "recordings"

X86_64, AARCH64, I386 = 62, 183, 3


def elf(soname: str, machine: int = X86_64, offset: int = 0x1000) -> bytes:
    """A shared library of nothing but headers, its segment loaded at `offset`."""
    names = b"\0" + soname.encode() + b"\0"
    programs_at, dynamic_at = 64, 64 + 2 * 56
    names_at = dynamic_at + 3 * 16
    size = names_at + len(names)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, programs_at, 0, 0, 64, 56, 2, 64, 0, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, offset, offset, size, size, 0x1000)
    dynamic = struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, offset + dynamic_at, 0, 48, 48, 8)
    entries = struct.pack("<qQqQqQ", 14, 1, 5, offset + names_at, 0, 0)
    return header + load + dynamic + entries + names


def loader_cache(libraries: Iterable[tuple[str, str]], *, old: bool = False) -> bytes:
    """As glibc's ``ldconfig`` writes it; with `old`, the format of old releases before it."""
    listed = list(libraries)
    texts, offsets = b"", []
    start = 48 + 24 * len(listed)
    for pair in listed:
        found = []
        for text in pair:
            found.append(start + len(texts))
            texts += text.encode() + b"\0"
        offsets.append(found)
    header = struct.pack("<20sIIB3xI12x", b"glibc-ld.so.cache1.1", len(listed), len(texts), 2, 0)
    entries = b"".join(struct.pack("<iIIIQ", 0x303, *pair, 0, 0) for pair in offsets)
    before = b""
    if old:
        before = struct.pack("<11sxI", b"ld.so-1.7.0", 3) + bytes(3 * 12)
        before += bytes(-len(before) % 8)
    return before + header + entries + texts


def put(root: Path, path: str, content: bytes = b"") -> None:
    where = root / path.lstrip("/")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(content)


def link(root: Path, path: str, target: str) -> None:
    where = root / path.lstrip("/")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(target)


def recorded_h100(root: Path) -> None:
    """The driver of a real machine, which only the loader's cache leads to."""
    folder, files, links = "", [], []
    for line in (RECORDINGS / "h100-driver-files.txt").read_text().splitlines():
        if line.startswith("/"):
            folder = line.rstrip(":")
        elif match := re.fullmatch(r"-\S+ \d+ (\S+)", line):
            files.append(f"{folder}/{match[1]}")
        elif match := re.fullmatch(r"l\S+ \d+ (\S+) -> (\S+)", line):
            links.append((f"{folder}/{match[1]}", match[2]))
    targets = {target: path.rpartition("/")[2] for path, target in links}
    for path in files:
        name = path.rpartition("/")[2]
        # A link whose name has a version but not the whole one is named by the SONAME.
        linked = targets.get(name, "")
        soname = linked if re.search(r"\.so\.\d+$", linked) else name
        put(root, path, elf(soname) if ".so." in name else b"#!")
    for path, target in links:
        link(root, path, target)
    listed = (RECORDINGS / "h100-ldconfig.txt").read_text().splitlines()
    pairs = [(line.split()[0], line.split()[-1]) for line in listed if "=>" in line]
    put(root, "/etc/ld.so.cache", loader_cache(pairs))
