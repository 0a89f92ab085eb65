"""``doctor``'s checks of the CDI directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.cdi.directory import MARK
from plugin.commands.cdi_checks import directory_checks, specification_checks
from plugin.commands.check import Check, Outcome
from plugin.commands.doctor import checks
from plugin.config.load import Loaded
from plugin.core.cdi.names import file_name
from plugin.core.inventory.model import Inventory
from plugin.core.settings import DeviceListStrategy, Settings

from .builders import mig_gpu, node
from .doctor_checks import FAIL, PASS, WARN, named
from .test_cdi_directory import BOTH, GPU, MIG, ONE, TWO, write

OFF = Settings()
ON = Settings(device_list_strategy=(DeviceListStrategy.CDI_CRI,))


def at(folder: Path, settings: Settings = ON) -> Settings:
    return replace(settings, cdi_directory=str(folder))


def of_directory(folder: Path, root: Path) -> Check:
    return named(directory_checks(at(folder), root), "CDI directory")


# ---- the directory


def test_a_directory_that_can_be_written(tmp_path: Path) -> None:
    assert of_directory(tmp_path, tmp_path) == Check("CDI directory", PASS, str(tmp_path))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_one_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cdi").mkdir(mode=0o555)
    check = of_directory(tmp_path / "cdi", tmp_path)
    assert check.outcome is FAIL
    assert "is not writable for user" in check.detail


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("cdi", WARN, "does not exist yet"),
        ("a/b/cdi", FAIL, "cannot be made"),
        ("file", FAIL, "is no directory"),
        ("link", FAIL, "is no directory"),
        ("file/cdi", FAIL, "cannot be made"),
    ],
)
def test_one_that_is_not_there(tmp_path: Path, name: str, verdict: Outcome, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    check = of_directory(tmp_path / name, tmp_path)
    assert check.outcome is verdict
    assert words in check.detail
    assert check.fix


def test_one_that_no_runtime_reads_and_one_that_a_configuration_names(tmp_path: Path) -> None:
    folder, configs = tmp_path / "cdi", tmp_path / "etc" / "crio" / "crio.conf.d"
    folder.mkdir()
    check = named(directory_checks(at(folder), tmp_path), "CDI runtimes")
    assert check.outcome is WARN
    assert f"not {folder}" in check.detail
    configs.mkdir(parents=True)
    (configs / "10-cdi.conf").write_text(f'cdi_spec_dirs = ["/etc/cdi", "{folder}"]')
    assert [each.name for each in directory_checks(at(folder), tmp_path)] == ["CDI directory"]


@pytest.mark.parametrize("folder", ["/etc/cdi", "/var/run/cdi", "/run/cdi"])
def test_the_usual_ones_are_read(folder: str) -> None:
    assert [each.name for each in directory_checks(at(Path(folder)))] == ["CDI directory"]


# ---- the files


def of_files(folder: Path, inventory: Inventory = ONE, settings: Settings = ON) -> Check | None:
    found = list(specification_checks(inventory, at(folder, settings)))
    assert len(found) <= 1
    return found[0] if found else None


def foreign(folder: Path) -> None:
    (folder / file_name(MIG)).write_text("kind: nvidia.com/mig\n")


def linked(folder: Path) -> None:
    (folder / file_name(MIG)).symlink_to("elsewhere")


def same_kind(folder: Path) -> None:
    (folder / "nvidia.yaml").write_text(
        "cdiVersion: 0.5.0\nkind: nvidia.com/mig\ndevices: [{name: all}]\n"
    )


@pytest.mark.parametrize("make", [foreign, linked, same_kind], ids=lambda make: make.__name__)
def test_another_program_s_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    check = of_files(tmp_path)
    assert check is not None
    assert check.outcome is FAIL
    assert "another program" in check.detail
    assert "remove" in check.fix
    assert set(write(tmp_path, ONE).errors) == {MIG}, "the daemon does not write it either"


def test_what_the_daemon_has_written(tmp_path: Path) -> None:
    write(tmp_path, BOTH)
    assert of_files(tmp_path, BOTH) == Check("CDI files", PASS, f"devices of kind {MIG}, {GPU}")


@pytest.mark.parametrize(
    ("there", "now", "words"),
    [
        (None, ONE, f"no devices of kind {MIG} yet"),
        (ONE, TWO, "0:1, MIG-0-8-0 missing"),
        (TWO, ONE, "0:1, MIG-0-8-0 not on the node"),
        (ONE, node(mig_gpu(1, "1g.5gb")), "missing; 0:0, MIG-0-7-0 not on the node"),
        (BOTH, ONE, f"files of former settings, of kind {GPU}, do not have"),
    ],
)
def test_what_is_stale(tmp_path: Path, there: Inventory | None, now: Inventory, words: str) -> None:
    if there is not None:
        write(tmp_path, there)
    check = of_files(tmp_path, now)
    assert check is not None
    assert check.outcome is WARN
    assert words in check.detail
    assert check.fix.startswith("start the daemon")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"devices": [1]}', b"[" * 100_000])
def test_one_of_ours_that_was_changed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / file_name(MIG)).write_bytes(MARK + content)
    check = of_files(tmp_path)
    assert check is not None
    assert (check.outcome, check.fix) == (WARN, "remove the file, and restart the daemon")


def test_without_cdi_only_what_was_left_is_said(tmp_path: Path) -> None:
    assert list(directory_checks(at(tmp_path / "gone", OFF))) == []
    assert of_files(tmp_path, ONE, OFF) is None
    same_kind(tmp_path)
    assert of_files(tmp_path, ONE, OFF) is None
    (tmp_path / "nvidia.yaml").unlink()
    write(tmp_path, ONE)
    assert of_files(tmp_path, ONE, OFF) is None
    check = of_files(tmp_path, TWO, OFF)
    assert check is not None
    assert (check.outcome, check.fix[:16]) == (WARN, "start the daemon")


def test_a_simulation_without_a_directory_has_none_to_look_at(tmp_path: Path) -> None:
    simulated = replace(ON, simulate="1xa100-40gb:all-1g.5gb", kubelet_socket="")
    names = [check.name for check in checks(Loaded(simulated))]
    assert not [name for name in names if name.startswith("CDI")]
    names = [check.name for check in checks(Loaded(at(tmp_path, simulated)))]
    assert [name for name in names if name.startswith("CDI")] == ["CDI files", "CDI directory"]
