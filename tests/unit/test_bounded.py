"""Files that somebody else writes: whatever it is, reading ends at once, with the content or an
error.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from plugin.config import bounded


def test_the_content_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"", b"x", b"x" * 10):
        file.write_bytes(content)
        assert bounded.read(file, 10) == content
    file.write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="is larger than 10 bytes") as refused:
        bounded.read(file, 10)
    assert refused.value.errno == errno.EFBIG


def test_a_file_of_proc_which_has_no_size() -> None:
    assert bounded.read("/proc/self/stat").startswith(f"{os.getpid()} ".encode())


def test_a_large_sparse_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 2**40)
    with pytest.raises(OSError, match="is larger"):
        bounded.read(file)


@pytest.mark.parametrize("name", ["fifo", "folder", "/dev/zero", "/dev/tty", "socket"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    os.mknod(tmp_path / "socket", 0o140600)
    with pytest.raises(OSError, match=r"."):
        bounded.read(tmp_path / name)


def test_links_are_followed_only_when_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert bounded.read(tmp_path / "link") == b"x"
    assert bounded.read(tmp_path / "file", follow=False) == b"x"
    with pytest.raises(OSError, match="symbolic links"):
        bounded.read(tmp_path / "link", follow=False)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 — numbers, not paths
    for name in ("/dev/zero", "/proc/self/stat", tmp_path):
        try:
            bounded.read(name)
        except OSError:
            continue
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
