"""The driver's library as a file: found, whole, and noticed when another one comes."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.driver.nvml import Loader, NvmlDriver
from plugin.driver.nvml.elf import missing_bytes
from plugin.driver.nvml.loading import LIBRARY, find_library
from plugin.driver.root import FOLDERS
from plugin.errors import DriverMismatch, DriverReplaced, DriverUnavailable

#: Any shared library of this machine: an extension module of Python's.
WHOLE = Path(pytest.importorskip("_ctypes").__file__).read_bytes()


def install(
    root: Path, data: bytes = WHOLE, version: str = "550.90", where: str = "usr/lib64"
) -> Path:
    """A driver's library below a root, as its packages make it."""
    folder = root / where
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"libnvidia-ml.so.{version}"
    file.write_bytes(data)
    link = folder / LIBRARY
    link.unlink(missing_ok=True)
    link.symlink_to(file.name)
    return file


# ---- whole


def test_a_whole_library_lacks_nothing(tmp_path: Path) -> None:
    assert missing_bytes(install(tmp_path)) == 0


@given(st.integers(64, len(WHOLE) - 1))
def test_every_byte_that_is_cut_off_is_missing(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.so"
    file.write_bytes(WHOLE[:length])
    assert missing_bytes(file) > 0


def test_both_classes_and_orders_of_bytes(tmp_path: Path) -> None:
    """A file with one segment that ends behind it, whose headers are otherwise in it."""
    file = tmp_path / "lib.so"
    for order, mark in (("<", 1), (">", 2)):
        ident = b"\x7fELF\x01" + bytes([mark]) + bytes(10)
        header = struct.pack(f"{order}HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, 1, 40, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 1, 80, 0, 0, 20, 20, 5, 4096)
        file.write_bytes(ident + header + segment)
        assert missing_bytes(file) == 80 + 20 - 84
        ident = b"\x7fELF\x02" + bytes([mark]) + bytes(10)
        header = struct.pack(f"{order}HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 100, 0, 0, 30, 30, 4096)
        file.write_bytes(ident + header + segment)
        assert missing_bytes(file) == 100 + 30 - 120


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"no library at all, but long enough", bytes(100)]
)
def test_what_is_no_library_is_left_to_the_loader(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    assert missing_bytes(file) == 0


def test_a_library_that_is_cut_off_is_refused_by_name(tmp_path: Path) -> None:
    file = install(tmp_path, WHOLE[: len(WHOLE) // 2])
    missing = len(WHOLE) - len(WHOLE) // 2
    with pytest.raises(DriverUnavailable) as refused:
        NvmlDriver(loader=Loader([tmp_path])).open()
    assert str(file) in refused.value.what
    assert f"{missing} bytes are missing" in refused.value.what
    assert not refused.value.final


# ---- where it is looked for


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_is_found_where_systems_keep_it(tmp_path: Path, folder: str) -> None:
    file = install(tmp_path, where=folder)
    assert find_library([tmp_path]) == file


def test_nixos_links_into_its_store(tmp_path: Path) -> None:
    file = install(tmp_path, where="nix/store/abc-nvidia-x11/lib")
    link = tmp_path / "run/opengl-driver/lib"
    link.parent.mkdir(parents=True)
    link.symlink_to("/nix/store/abc-nvidia-x11/lib")  # as a process there sees it
    assert find_library([tmp_path]) == file


def test_a_folder_that_is_added_comes_first(tmp_path: Path) -> None:
    install(tmp_path)
    file = install(tmp_path, where="opt/nvidia", version="560.35")
    loader = Loader([tmp_path], ["/opt/nvidia"])
    loader.load()
    assert loader.path == file


@pytest.mark.skipif(
    find_library([Path("/")]) is not None, reason="this machine has a driver of its own"
)
def test_the_message_says_where_it_was_looked_for(tmp_path: Path) -> None:
    load = f"Loader([Path({str(tmp_path)!r})], ['/opt/nvidia']).load()"
    imports = "from pathlib import Path; from plugin.driver.nvml import Loader"
    done = subprocess.run(  # a process into which no other test has loaded a library
        [sys.executable, "-c", f"{imports}; {load}"],
        env={"LD_LIBRARY_PATH": "/somewhere/lib"},
        capture_output=True,
        text=True,
        check=False,
    )
    refused = done.stderr.splitlines()[-1]
    for place in ("/somewhere/lib", f"{tmp_path} or /", "opt/nvidia", *FOLDERS):
        assert place in refused
    assert "--library-folders" in refused


# ---- whether another one can come


def test_below_a_mounted_root_it_can_come_later(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert not Loader([tmp_path]).is_final


@pytest.mark.parametrize("roots", [[], ["/"], ["/driver-root-that-is-not-mounted"]])
def test_without_a_mounted_root_nothing_can_come(
    roots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert Loader([Path(root) for root in roots]).is_final
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere/lib:{'/proc/self'}")
    assert not Loader([Path(root) for root in roots]).is_final  # procfs is a mount


# ---- another one has come


def test_a_library_of_another_name_is_loaded_anew(tmp_path: Path) -> None:
    install(tmp_path)
    loader = Loader([tmp_path])
    assert isinstance(loader.load(), ctypes.CDLL)
    assert not loader.has_changed()
    newer = install(tmp_path, WHOLE + bytes(8), "560.35")
    assert loader.has_changed()
    loader.load()
    assert loader.path == newer
    assert not loader.has_changed()


def test_a_library_that_was_replaced_under_its_name_takes_a_new_process(tmp_path: Path) -> None:
    file = install(tmp_path)
    loader = Loader([tmp_path])
    loader.load()
    file.unlink()
    file.write_bytes(WHOLE + bytes(8))
    with pytest.raises(DriverReplaced, match="was replaced; ending"):
        loader.has_changed()


def test_one_that_goes_away_is_no_other_one(tmp_path: Path) -> None:
    file = install(tmp_path)
    loader = Loader([tmp_path])
    loader.load()
    file.unlink()
    assert not loader.has_changed()


def test_a_library_that_lacks_functions_does_not_fit(tmp_path: Path) -> None:
    """What is installed has no function of NVML at all, until the right one comes."""
    install(tmp_path)
    driver = NvmlDriver(loader=Loader([tmp_path]))
    for _ in range(2):
        with pytest.raises(DriverMismatch, match="older than this plugin needs") as refused:
            driver.open()
        assert not refused.value.final
    install(tmp_path, WHOLE[:100_000], "560.35")
    with pytest.raises(DriverUnavailable, match=r"560\.35: the file is cut off"):
        driver.open()  # it looks at the new one
    assert pynvml.NVML_ERROR_FUNCTION_NOT_FOUND == 13
