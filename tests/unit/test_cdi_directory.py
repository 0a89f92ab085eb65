"""The CDI specification on disk: written whole, never over another program's, and why not."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from plugin.cdi.directory import MARK, SpecificationDirectory
from plugin.cdi.specifier import Specifier
from plugin.core.cdi.names import file_name
from plugin.core.cdi.specification import entries
from plugin.core.cdi.standing import Specified
from plugin.core.inventory.model import Inventory
from plugin.core.settings import CdiVendor, DeviceListStrategy, Settings
from plugin.sim.driver_files import SimInstallation

from .builders import gpu, mig_gpu, node
from .test_cdi_specification import VALIDATOR

SETTINGS = Settings(device_list_strategy=(DeviceListStrategy.CDI_CRI,))
MIG, GPU = "nvidia.com/mig", "nvidia.com/gpu"
ONE, TWO = node(mig_gpu(0, "1g.5gb")), node(mig_gpu(0, "1g.5gb", "1g.5gb"))
BOTH = node(mig_gpu(0, "1g.5gb"), gpu(1))


def simulated(settings: Settings, inventory: Inventory) -> Sequence[SimInstallation]:
    del settings
    return (SimInstallation(inventory.driver_version),)


def write(folder: Path, inventory: Inventory, settings: Settings = SETTINGS) -> Specified:
    return Specifier(folder, simulated).bring_up_to_date(inventory, settings)


def names(folder: Path, kind: str = MIG) -> set[str]:
    document = yaml.safe_load((folder / file_name(kind)).read_text())
    VALIDATOR.validate(document)
    return {device["name"] for device in document["devices"]}


def test_a_file_for_each_kind_that_everybody_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "cdi"
    old = os.umask(0o077)
    try:
        specified = write(folder, BOTH)
    finally:
        os.umask(old)
    assert specified == Specified(entries(BOTH, SETTINGS))
    assert {path.name for path in folder.iterdir()} == {file_name(MIG), file_name(GPU)}
    assert names(folder) == {"MIG-0-7-0", "0:0", "all"}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.read_bytes().startswith(MARK)
        json.loads(path.read_bytes().removeprefix(MARK))


def test_devices_come_and_go(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    before = (tmp_path / file_name(MIG)).stat()
    write(tmp_path, ONE)
    assert (tmp_path / file_name(MIG)).stat() == before  # nothing new, nothing written
    write(tmp_path, TWO)
    assert (tmp_path / file_name(MIG)).stat().st_ino != before.st_ino  # renamed into place
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "MIG-0-8-0", "0:1", "all"}
    write(tmp_path, node(gpu(0)))
    assert [path.name for path in tmp_path.iterdir()] == [file_name(GPU)]
    assert write(tmp_path, node()) == Specified()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_another_vendor_name_disappears(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    write(tmp_path, ONE, replace(SETTINGS, cdi_vendor=CdiVendor.DEVICE_PLUGIN))
    assert [path.name for path in tmp_path.iterdir()] == [
        "mig-device-plugin-k8s.device-plugin.nvidia.com-gpu.yaml"
    ]


def test_what_was_changed_or_removed_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / file_name(MIG)
    write(tmp_path, ONE)
    wanted = path.read_bytes()
    for spoil in (
        lambda: path.write_bytes(MARK + b"{}"),
        path.unlink,
        lambda: path.chmod(0o600),
    ):
        spoil()
        write(tmp_path, ONE)
        assert path.read_bytes() == wanted
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / f".{file_name(MIG)}.{'0' * 16}"
    leftover.write_text("half")
    write(tmp_path, ONE)
    assert not leftover.exists()


def _foreign_file(folder: Path) -> Path:
    path = folder / file_name(MIG)
    path.write_text("cdiVersion: 0.5.0\n")
    return path


def _link(folder: Path) -> Path:
    target = folder.parent / "target"
    target.write_bytes(MARK)
    path = folder / file_name(MIG)
    path.symlink_to(target)
    return target


def _directory(folder: Path) -> Path:
    (folder / file_name(MIG)).mkdir()
    return folder / file_name(MIG)


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / file_name(MIG))
    return folder / file_name(MIG)


@pytest.mark.parametrize("make", [_foreign_file, _link, _directory, _pipe])
def test_nothing_of_another_program_is_replaced(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "cdi"
    folder.mkdir()
    path = make(folder)
    before = path.lstat()
    specified = write(folder, BOTH)
    assert path.lstat().st_ino == before.st_ino
    assert path.lstat().st_size == before.st_size
    (text,) = specified.errors.values()
    assert list(specified.errors) == [MIG]
    assert text == (
        f"{folder / file_name(MIG)} was written by another program; remove or rename it"
    )
    assert {entry.kind for entry in specified.entries.values()} == {GPU}
    assert write(folder, node(gpu(0))).errors == {}
    assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("name", "text", "conflicts"),
    [
        ("nvidia.yaml", "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n", True),
        ("nvidia.yaml", 'cdiVersion: 0.5.0\n"kind": "nvidia.com/gpu"\n', True),
        ("nvidia.json", '{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[]}', True),
        ("nvidia.json", '{\n  "kind" : "nvidia.com/gpu"\n}', True),
        ("nvidia.json", '{"kind":"nvidia.com/gpus"}', False),
        ("nvidia.json", '{"cdiVersion":"0.5.0","kind":"intel.com/gpu"}', False),
        ("nvidia.bak", "kind: nvidia.com/gpu\n", False),
        ("notes.yaml", "# of kind: nvidia.com/gpu\n", False),
    ],
)
def test_devices_of_a_kind_that_another_program_specifies_are_refused(
    tmp_path: Path,
    name: str,
    text: str,
    conflicts: bool,  # noqa: FBT001 — a column of the table
) -> None:
    (tmp_path / name).write_text(text)
    specified = write(tmp_path, BOTH)
    assert list(specified.errors) == ([GPU] if conflicts else [])
    assert (tmp_path / file_name(GPU)).exists() is not conflicts
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}
    assert (tmp_path / name).read_text() == text
    if conflicts:
        assert specified.errors[GPU] == (
            f"{tmp_path / name}, which another program wrote, has devices of kind {GPU} too, and "
            "container runtimes use neither then; remove that file, or choose other names with "
            "--cdi-vendor"
        )
        (tmp_path / name).unlink()
        assert write(tmp_path, BOTH).errors == {}


@pytest.mark.parametrize(
    ("place", "why"),
    [("missing/cdi", "No such file or directory"), ("file/cdi", "Not a directory")],
)
def test_a_directory_that_cannot_be_written(tmp_path: Path, place: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    specified = write(tmp_path / place, BOTH)
    assert specified.entries == {}
    assert specified.errors == dict.fromkeys(
        (MIG, GPU),
        f"the CDI specification cannot be written to {tmp_path / place}: {why}; mount the "
        "directory writable, or name another one with --cdi-directory",
    )


@pytest.mark.parametrize(
    ("inventory", "said"),
    [
        (replace(ONE, driver_version=""), "no libcuda.so.<version>"),
        (replace(ONE, control_nodes=("/dev/nvidiactl",)), "needs /dev/nvidia-uvm, which does not"),
    ],
)
def test_without_the_drivers_files_nothing_is_written(
    tmp_path: Path, inventory: Inventory, said: str
) -> None:
    write(tmp_path, TWO)
    specified = Specifier(tmp_path, lambda _, __: ()).bring_up_to_date(inventory, SETTINGS)
    assert said in specified.errors[MIG]
    assert specified.entries == {}
    assert "MIG-0-8-0" in names(tmp_path)  # what runs may start again


def test_a_conflict_of_one_kind_keeps_its_old_file_from_being_renewed(tmp_path: Path) -> None:
    directory = SpecificationDirectory(tmp_path)
    directory.bring_up_to_date({"a.b/c": {"kind": "a.b/c", "n": 1}})
    (tmp_path / "other.json").write_text('{"kind": "a.b/c"}')
    assert list(directory.bring_up_to_date({"a.b/c": {"kind": "a.b/c", "n": 2}})) == ["a.b/c"]
    assert b'"n": 1' in (tmp_path / file_name("a.b/c")).read_bytes()


@pytest.mark.asyncio
async def test_a_file_system_that_hangs_is_an_error_until_it_answers(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def hanging(settings: Settings, inventory: Inventory) -> Sequence[SimInstallation]:
        goes_on.wait(10)
        return simulated(settings, inventory)

    specifier = Specifier(tmp_path, hanging, longest_seconds=0.1)
    for _ in range(2):  # the second does not start another thread
        specified = await specifier(ONE, SETTINGS)
        assert "not written after 0.1 s" in specified.errors[MIG]
    goes_on.set()
    async with asyncio.timeout(5):
        while (await specifier(ONE, SETTINGS)).errors:
            pass  # each call waits for the thread
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}
