"""Finding the driver's files below a root, whatever is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.cdi.finder import Hook, find_driver, find_hook
from plugin.core.cdi.specification import Library, Program
from plugin.driver import loader_cache as cache
from plugin.driver import shared_object
from plugin.driver.installation import DiskInstallation
from plugin.driver.shared_object import SharedObject
from plugin.errors import SpecificationError
from plugin.sim.driver_files import SimInstallation
from tests.driver_tree import AARCH64, I386, elf, link, loader_cache, put, recorded_h100

DEBIAN = "/usr/lib/x86_64-linux-gnu"
UNKNOWN = (
    "whether the host has /usr/bin/nvidia-cdi-hook is not known: the driver root /run/d is not the "
    "host's root"
)


def disk(root: Path, host: str = "/") -> DiskInstallation:
    return DiskInstallation(root, host)


def test_a_real_drivers_files_are_found_through_the_loaders_cache(tmp_path: Path) -> None:
    recorded_h100(tmp_path)
    found = find_driver([disk(tmp_path)], "580.159.04")
    assert (found.version, found.machine, found.root) == ("580.159.04", "x86_64", "/")
    assert [(library.name.partition(".")[0], library.soname) for library in found.libraries] == [
        ("libcuda", "libcuda.so.1"),
        ("libcudadebugger", "libcudadebugger.so.1"),
        ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
        ("libnvidia-nvvm", "libnvidia-nvvm.so.4"),
        ("libnvidia-gpucomp", "libnvidia-gpucomp.so.580.159.04"),
        ("libnvidia-opencl", "libnvidia-opencl.so.1"),
        ("libnvidia-allocator", "libnvidia-allocator.so.1"),
        ("libnvidia-pkcs11-openssl3", "libnvidia-pkcs11-openssl3.so.580.159.04"),
        ("libnvidia-ml", "libnvidia-ml.so.1"),
        ("libnvidia-cfg", "libnvidia-cfg.so.1"),
    ]
    assert {library.folder for library in found.libraries} == {"/usr/local/nvidia/lib64"}
    assert found.programs[0] == Program("nvidia-smi", "/usr/local/nvidia/bin/nvidia-smi")
    assert len(found.programs) == 5


@pytest.mark.parametrize(
    "folder",
    ["usr/lib64", "usr/lib/aarch64-linux-gnu", "lib64", "usr/lib/aarch64-linux-gnu/nvidia/current"],
)
@pytest.mark.parametrize("version", ["", "550.54.15"])
def test_known_folders_do_without_a_cache(tmp_path: Path, folder: str, version: str) -> None:
    put(tmp_path, f"{folder}/libcuda.so.550.54.15", elf("libcuda.so.1", AARCH64))
    found = find_driver([disk(tmp_path, "/run/nvidia/driver")], version)
    assert found.libraries == (Library(f"/{folder}/libcuda.so.550.54.15", "libcuda.so.1"),)
    assert (found.version, found.machine) == ("550.54.15", "aarch64")
    assert found.root == "/run/nvidia/driver"


def test_further_folders_come_first(tmp_path: Path) -> None:
    for folder in ("/odd", "/usr/lib64"):
        put(tmp_path, f"{folder}/libcuda.so.550.2", elf("libcuda.so.1"))
    found = find_driver([disk(tmp_path)], "550.2", further=["/odd"])
    assert found.libraries == (Library("/odd/libcuda.so.550.2", "libcuda.so.1"),)
    (tmp_path / "usr/lib64/libcuda.so.550.2").unlink()
    with pytest.raises(SpecificationError):
        find_driver([disk(tmp_path)], "550.2")


def test_only_the_running_version_is_taken(tmp_path: Path) -> None:
    for version in ("535.1", "550.2"):
        put(tmp_path, f"{DEBIAN}/libcuda.so.{version}", elf("libcuda.so.1"))
        put(tmp_path, f"{DEBIAN}/libnvidia-ml.so.{version}", elf("libnvidia-ml.so.1"))
    found = find_driver([disk(tmp_path)], "550.2")
    assert [library.name for library in found.libraries] == [
        "libcuda.so.550.2",
        "libnvidia-ml.so.550.2",
    ]
    with pytest.raises(
        SpecificationError,
        match=r"no libcuda.so.570.3, only libcuda.so.535.1 below /, .*--driver-ro",
    ):
        find_driver([disk(tmp_path)], "570.3")


def test_the_first_installation_that_has_it_counts(tmp_path: Path) -> None:
    put(tmp_path / "b", f"{DEBIAN}/libcuda.so.550.2", elf("libcuda.so.1"))
    found = find_driver([disk(tmp_path / "a", "/a"), disk(tmp_path / "b", "/b")], "550.2")
    assert found.root == "/b"


def test_links_are_followed_inside_the_root_and_end_there(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret"
    outside.write_bytes(elf("libnvidia-ml.so.1"))
    put(root, "/opt/current/libcuda.so.550.2", elf("libcuda.so.1"))
    link(root, f"{DEBIAN}/libcuda.so.550.2", "/etc/alternatives/cuda")
    link(root, "/etc/alternatives/cuda", "../../opt/current/libcuda.so.550.2")
    link(root, f"{DEBIAN}/libnvidia-ml.so.550.2", str(outside))
    link(root, f"{DEBIAN}/libnvidia-cfg.so.550.2", "../../../../../../secret")
    link(root, f"{DEBIAN}/libnvidia-nvvm.so.550.2", "libnvidia-nvvm.so.550.2")
    (found,) = find_driver([disk(root)], "550.2").libraries
    assert found == Library("/opt/current/libcuda.so.550.2", "libcuda.so.1")


def test_libraries_of_another_machine_and_files_that_are_none_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "/usr/lib64/libcuda.so.550.2", elf("libcuda.so.1"))
    put(tmp_path, "/usr/lib64/libnvidia-ml.so.550.2", b"text")
    put(tmp_path, "/usr/lib64/libnvidia-cfg.so.550.2", elf("libnvidia-cfg.so.1", AARCH64))
    (tmp_path / "usr/lib64/libnvidia-nvvm.so.550.2").mkdir()
    os.mkfifo(tmp_path / "usr/lib64/libnvidia-opencl.so.550.2")
    (found,) = find_driver([disk(tmp_path)], "550.2").libraries
    assert found.name == "libcuda.so.550.2"


def test_no_library_of_a_machine_with_gpus(tmp_path: Path) -> None:
    put(tmp_path, "/usr/lib64/libcuda.so.550.2", elf("libcuda.so.1", I386))
    with pytest.raises(SpecificationError, match=r"libcuda.so.550.2 below / is no library"):
        find_driver([disk(tmp_path)], "550.2")


@pytest.mark.parametrize(
    ("host", "mode", "problem"),
    [
        ("/", 0o755, ""),
        ("/", 0o644, "/usr/bin/nvidia-cdi-hook is not on the host, or cannot be executed"),
        ("/", None, "/usr/bin/nvidia-cdi-hook is not on the host, or cannot be executed"),
        ("/run/d", 0o755, UNKNOWN),
    ],
)
def test_a_hook_is_used_if_it_is_certainly_on_the_host(
    tmp_path: Path, host: str, mode: int | None, problem: str
) -> None:
    hook = "/usr/bin/nvidia-cdi-hook"
    if mode is not None:
        put(tmp_path, hook)
        (tmp_path / hook.lstrip("/")).chmod(mode)
    found = find_hook([disk(tmp_path, host)], hook)
    assert found == (Hook(problem=problem) if problem else Hook(hook))
    assert find_hook([disk(tmp_path, host)], "") == Hook()


def test_a_library_without_the_drivers_version_is_taken_from_beside_libcuda(tmp_path: Path) -> None:
    nvvm = "libnvidia-nvvm70.so.4"
    put(tmp_path, "/opt/driver/libcuda.so.590.1", elf("libcuda.so.1"))
    link(tmp_path, f"{DEBIAN}/libcuda.so.590.1", "/opt/driver/libcuda.so.590.1")
    put(tmp_path, f"/usr/lib64/{nvvm}", elf(nvvm))  # of another driver
    assert len(find_driver([disk(tmp_path)], "590.1").libraries) == 1
    put(tmp_path, f"/opt/driver/{nvvm}", elf(nvvm))
    assert find_driver([disk(tmp_path)], "590.1").libraries[1] == Library(
        f"/opt/driver/{nvvm}", nvvm
    )


def test_an_installation_that_is_none_does_not_end_the_search(tmp_path: Path) -> None:
    put(tmp_path / "a", f"{DEBIAN}/libcuda.so.550.2", b"junk")
    put(tmp_path / "b", f"{DEBIAN}/libcuda.so.550.2", elf("libcuda.so.1"))
    put(tmp_path / "b", f"{DEBIAN}/libcuda.so.535.1", b"junk")
    roots = [disk(tmp_path / "a", "/a"), disk(tmp_path / "b", "/b")]
    for version in ("", "550.2"):
        found = find_driver(roots, version)
        assert (found.root, found.version) == ("/b", "550.2")
    with pytest.raises(SpecificationError, match=r"535\.1 below /b is no library of a machine"):
        find_driver(roots, "535.1")


def test_programs_of_nixos_are_found(tmp_path: Path) -> None:
    put(tmp_path, "/nix/store/a/lib/libcuda.so.580.1", elf("libcuda.so.1"))
    link(tmp_path, "/run/opengl-driver", "/nix/store/a")
    put(tmp_path, "/nix/store/b/bin/nvidia-smi")
    link(tmp_path, "/run/current-system/sw/bin/nvidia-smi", "/nix/store/b/bin/nvidia-smi")
    found = find_driver([disk(tmp_path)], "580.1")
    assert found.programs == (Program("nvidia-smi", "/nix/store/b/bin/nvidia-smi"),)


def test_a_simulated_driver_has_what_a_real_one_has() -> None:
    found = find_driver([SimInstallation("580.159.04")], "580.159.04")
    assert len(found.libraries) == 10
    assert len(found.programs) == 5
    assert {library.folder for library in found.libraries} == {DEBIAN}


# ---- the loader's cache

PAIRS = [("libcuda.so.1", "/a/libcuda.so.1"), ("libc.so.6", "/lib/libc.so.6")]


@pytest.mark.parametrize("old", [False, True])
def test_a_cache_is_read(old: bool) -> None:  # noqa: FBT001 — both formats
    assert list(cache.paths(loader_cache(PAIRS, old=old))) == PAIRS


@given(st.binary() | st.binary().map(lambda tail: loader_cache(PAIRS) + tail))
def test_any_content_is_read_without_an_error(content: bytes) -> None:
    assert all(name and path.startswith("/") for name, path in cache.paths(content))


@given(st.booleans(), st.data())
def test_a_damaged_cache_is_read_without_an_error(old: bool, data: st.DataObject) -> None:  # noqa: FBT001
    content = bytearray(loader_cache(PAIRS, old=old))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    assert len(list(cache.paths(cut))) <= len(content)


@pytest.mark.skipif(not shutil.which("ldconfig"), reason="no ldconfig")
def test_this_machines_cache_is_read_as_ldconfig_reads_it() -> None:
    printed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in printed.splitlines() if " => " in line]
    content = Path("/etc/ld.so.cache").read_bytes()
    assert set(cache.paths(content)) == {(line[0], line[-1]) for line in lines}


# ---- ELF headers


@pytest.mark.parametrize(("machine", "name"), [(62, "x86_64"), (AARCH64, "aarch64")])
def test_a_soname_is_read(tmp_path: Path, machine: int, name: str) -> None:
    put(tmp_path, "library", elf("libx.so.4", machine))
    assert shared_object.read(tmp_path / "library") == SharedObject("libx.so.4", name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ".so", "", "lib x.so", "l" * 300])
def test_a_soname_that_is_no_files_name_is_none(tmp_path: Path, name: str) -> None:
    put(tmp_path, "library", elf(name))
    assert shared_object.read(tmp_path / "library") is None


def test_a_soname_of_a_real_library() -> None:
    paths = dict(cache.paths(Path("/etc/ld.so.cache").read_bytes()))
    found = shared_object.read(Path(paths["libc.so.6"]))
    assert found is not None
    assert found.soname == "libc.so.6"


@given(st.binary(max_size=300) | st.integers(0, 300).map(lambda n: elf("libx.so.4")[:n]), st.data())
def test_a_damaged_library_is_none_or_one(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    found = shared_object.read(path)
    assert found is None or found.soname
