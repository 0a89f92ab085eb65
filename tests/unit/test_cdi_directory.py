"""The CDI specification on disk: written whole, never over another program's, and why not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from plugin.cdi.directory import MARK
from plugin.cdi.specifier import Installations, Specifier
from plugin.core.cdi.names import file_name
from plugin.core.cdi.specification import entries
from plugin.core.cdi.standing import Specified, is_current
from plugin.core.inventory.model import Inventory
from plugin.core.settings import CdiVendor, DeviceListStrategy, Settings
from plugin.sim.driver_files import SimInstallation
from plugin.specification import Specification

from .builders import gpu, mig_gpu, node
from .test_cdi_specification import VALIDATOR

SETTINGS = Settings(device_list_strategy=(DeviceListStrategy.CDI_CRI,))
MIG, GPU = "nvidia.com/mig", "nvidia.com/gpu"
ONE, TWO = node(mig_gpu(0, "1g.5gb")), node(mig_gpu(0, "1g.5gb", "1g.5gb"))
BOTH = node(mig_gpu(0, "1g.5gb"), gpu(1))


def simulated(settings: Settings, inventory: Inventory) -> Sequence[SimInstallation]:
    del settings
    return (SimInstallation(inventory.driver_version),)


def contents(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-record")


@contextlib.contextmanager
def daemon(
    folder: Path, installations: Installations = simulated, recorded: Path | None = None
) -> Iterator[Specifier]:
    specifier = Specifier(folder, recorded or record(folder), installations)
    with contextlib.closing(specifier):
        yield specifier


def brought(specifier: Specifier, inventory: Inventory, settings: Settings) -> Specified:
    return specifier.bring_up_to_date(inventory, settings) or Specified()


def write(folder: Path, inventory: Inventory, settings: Settings = SETTINGS) -> Specified:
    """As by a daemon that ends after that."""
    with daemon(folder) as specifier:
        return brought(specifier, inventory, settings)


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
        ("nvidia.yaml", f"---\ncdiVersion: 0.5.0\nkind: {GPU}\ndevices: [{{name: all}}]\n", True),
        ("nvidia.yaml", f'cdiVersion: 0.5.0\n"kind": "{GPU}"\ndevices:\n- name: "1"\n', True),
        ("nvidia.yaml", f'{{kind: {GPU}, devices: [{{"name": all}}]}}', True),
        ("nvidia.json", '{"devices":[{"name":"1"}],"kind":"nvidia.com\\/gpu"}', True),
        ("nvidia.json", '{"kind":"nvidia.com/gpu","devices":[{"name":"7"}]}', False),
        ("nvidia.json", '{"kind":"nvidia.com/gpus","devices":[{"name":"1"}]}', False),
        ("nvidia.json", '{"kind":"intel.com/gpu","devices":[{"name":"1"}]}', False),
        ("nvidia.yaml", "kind: nvidia.com/gpu\ndevices: [1, {name: 1}]\n", False),
        ("nvidia.yaml", "kind: nvidia.com/gpu\n\tdevices: [{name: all}]\n", False),
        ("nvidia.json", "[" * 100_000, False),
        ("nvidia.json", "nvidia.com \x00", False),
        ("nvidia.bak", "kind: nvidia.com/gpu\ndevices: [{name: all}]\n", False),
        ("notes.yaml", "# of kind: nvidia.com/gpu\n", False),
    ],
)
def test_devices_that_another_program_specifies_are_refused_and_left_to_it(
    tmp_path: Path,
    name: str,
    text: str,
    conflicts: bool,  # noqa: FBT001 — a column of the table
) -> None:
    assert write(tmp_path, BOTH).errors == {}
    (tmp_path / name).write_text(text)
    specified = write(tmp_path, BOTH)
    assert list(specified.errors) == ([GPU] if conflicts else [])
    assert (tmp_path / file_name(GPU)).exists() is not conflicts
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}
    assert (tmp_path / name).read_text() == text
    if conflicts:
        shared = "1" if "all" not in text else "all"
        assert specified.errors[GPU] == (
            f"{tmp_path / name}, which another program wrote, has {GPU}={shared} too, and "
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
    with daemon(tmp_path / place, recorded=tmp_path / "known") as specifier:
        specified = brought(specifier, BOTH, SETTINGS)
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
    with daemon(tmp_path, lambda _, __: ()) as specifier:
        specified = brought(specifier, inventory, SETTINGS)
    assert said in specified.errors[MIG]
    assert specified.entries == {}
    # What runs may start again, and a device that is gone is nobody's.
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}


@pytest.mark.asyncio
async def test_a_file_system_that_hangs_is_an_error_until_it_answers(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def hanging(settings: Settings, inventory: Inventory) -> Sequence[SimInstallation]:
        goes_on.wait(10)
        return simulated(settings, inventory)

    specifier = Specifier(tmp_path, record(tmp_path), hanging, longest_seconds=0.01)
    for inventory in (ONE, node()):  # the second does not start another thread
        specified = await specifier(inventory, SETTINGS) or Specified()
        assert "not written after 0.01 s" in specified.errors[MIG]
        assert not is_current(specified, inventory, SETTINGS)
    goes_on.set()
    (thread,) = [each for each in threading.enumerate() if each.name == "aside CDI specification"]
    await asyncio.to_thread(thread.join)
    patient = Specifier(tmp_path, record(tmp_path), simulated)
    specifier.close()
    assert await patient(ONE, SETTINGS) == Specified(entries(ONE, SETTINGS))
    patient.close()
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}


# ---- what runs keeps its device, and no other


@contextlib.contextmanager
def limited_file_size() -> Iterator[None]:
    """No file can have content, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


WITHOUT_CDI = Settings()
OTHER_VENDOR = dataclasses.replace(SETTINGS, cdi_vendor=CdiVendor.DEVICE_PLUGIN)
AS_PLUGIN = "k8s.device-plugin.nvidia.com/gpu"


def device_nodes(folder: Path, kind: str = MIG) -> dict[str, list[str]]:
    document = yaml.safe_load((folder / file_name(kind)).read_text())
    return {
        device["name"]: [each["path"] for each in device["containerEdits"]["deviceNodes"]]
        for device in document["devices"]
    }


def moved(inventory: Inventory) -> Inventory:
    """The first MIG device has another instance's nodes."""
    card = inventory.gpus[0]
    first, *others = card.mig_devices
    first = replace(first, device_nodes=("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap99"))
    return replace(inventory, gpus=(replace(card, mig_devices=(first, *others)),))


def nothing_found(settings: Settings, inventory: Inventory) -> Sequence[SimInstallation]:
    del settings, inventory
    return ()


@pytest.mark.parametrize("settings", [WITHOUT_CDI, OTHER_VENDOR, SETTINGS])
@pytest.mark.parametrize("installations", [simulated, nothing_found])
@pytest.mark.parametrize(
    ("after", "left"),
    [
        (TWO, {"MIG-0-7-0", "0:0", "MIG-0-8-0", "0:1", "all"}),
        (ONE, {"MIG-0-7-0", "0:0", "all"}),
        (moved(ONE), set()),
        (node(gpu(0)), set()),
        (node(), set()),
    ],
)
def test_a_device_that_is_gone_or_another_leaves_the_file_whatever_the_settings(
    tmp_path: Path,
    settings: Settings,
    installations: Installations,
    after: Inventory,
    left: set[str],
) -> None:
    write(tmp_path, TWO)
    with daemon(tmp_path, installations) as specifier:
        brought(specifier, after, settings)
    if after == moved(ONE) and installations is simulated:
        left = {"MIG-0-7-0", "0:0", "all"}
    path = tmp_path / file_name(MIG)
    assert (names(tmp_path) if path.exists() else set()) == left
    if left:
        known = {each.uuid: list(each.device_nodes) for each in after.devices()}
        nodes = device_nodes(tmp_path)
        assert all(nodes[uuid] == known[uuid] for uuid in known.keys() & nodes.keys())
        assert set(nodes["all"]) == {n for name in left - {"all"} for n in nodes[name]}


def test_a_disk_without_room_costs_the_file_rather_than_keeping_a_device_that_is_gone(
    tmp_path: Path,
) -> None:
    write(tmp_path, TWO)
    with limited_file_size():
        specified = write(tmp_path, ONE)
    assert "cannot be written" in specified.errors[MIG]
    assert not (tmp_path / file_name(MIG)).exists()
    assert write(tmp_path, ONE).errors == {}


def test_what_pods_were_given_under_another_vendor_stays_until_it_is_gone(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    assert write(tmp_path, TWO, OTHER_VENDOR).errors == {}
    assert names(tmp_path) == names(tmp_path, AS_PLUGIN) == {*device_nodes(tmp_path)}
    assert "MIG-0-8-0" in names(tmp_path)
    write(tmp_path, node(gpu(1)), OTHER_VENDOR)
    assert [path.name for path in tmp_path.iterdir()] == [file_name(AS_PLUGIN)]


def test_without_cdi_nothing_is_written_that_was_not_there(tmp_path: Path) -> None:
    assert write(tmp_path / "cdi", TWO, WITHOUT_CDI) == Specified()
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_former_configuration_is_emptied_once_the_new_one_is_written(
    tmp_path: Path,
) -> None:
    old, new, known = tmp_path / "old", tmp_path / "new", tmp_path / "known"
    with daemon(old, recorded=known) as specifier:
        brought(specifier, TWO, SETTINGS)
    with daemon(new, nothing_found, recorded=known) as specifier:
        brought(specifier, ONE, SETTINGS)
    assert names(old) == {"MIG-0-7-0", "0:0", "all"}
    with daemon(new, recorded=known) as specifier:
        brought(specifier, ONE, SETTINGS)
    assert list(old.iterdir()) == []
    assert known.read_text() == f"{new}\n"
    with daemon(old, recorded=known) as specifier:
        brought(specifier, TWO, WITHOUT_CDI)
        assert "MIG-0-8-0" in names(new)
        brought(specifier, node(), WITHOUT_CDI)
    assert not known.exists()


def test_a_former_directory_that_is_out_of_reach_is_told_of_once_and_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = tmp_path / "known"
    known.write_text(f"{tmp_path / 'gone'}\n")
    with daemon(tmp_path / "cdi", recorded=known) as specifier:
        for _ in range(2):
            assert brought(specifier, ONE, SETTINGS).errors == {}
    assert known.read_text() == f"{tmp_path / 'gone'}\n{tmp_path / 'cdi'}\n"
    (told,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert told.__dict__["directory"] == str(tmp_path / "gone")


def test_a_chosen_hook_that_is_not_used_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_hook = dataclasses.replace(SETTINGS, nvidia_cdi_hook_path="/usr/bin/nvidia-ctk")
    with daemon(tmp_path) as specifier:
        for inventory in (ONE, TWO):
            assert brought(specifier, inventory, with_hook).errors == {}
    assert [each.message for each in caplog.records] == ["NVIDIA's hooks are not used"]


def test_nodes_that_were_seen_elsewhere_have_that_path_on_the_host(tmp_path: Path) -> None:
    in_root = dataclasses.replace(SETTINGS, dev_root="/run/nvidia/driver")
    for dev_root, host in (("", "/run/nvidia/driver/dev/nvidia0"), ("/", None)):
        write(tmp_path, replace(ONE, dev_root=dev_root), in_root)
        document = yaml.safe_load((tmp_path / file_name(MIG)).read_text())
        assert document["devices"][0]["containerEdits"]["deviceNodes"][0].get("hostPath") == host


# ---- two daemons


def test_a_second_daemon_changes_nothing_and_is_content_with_what_it_needs(tmp_path: Path) -> None:
    leftover = tmp_path / f".{file_name(MIG)}.{'0' * 16}"
    with daemon(tmp_path) as first, daemon(tmp_path) as second:
        brought(first, ONE, SETTINGS)
        leftover.write_text("what the first writes just now")
        assert brought(second, ONE, SETTINGS).errors == {}
        specified = brought(second, TWO, SETTINGS)
        assert specified.errors == {
            MIG: f"another daemon writes its CDI specification to {tmp_path}, which has other "
            "devices; run one daemon on a node, or name another directory with --cdi-directory"
        }
        for inventory, settings in ((node(), SETTINGS), (node(), WITHOUT_CDI)):
            assert brought(second, inventory, settings) == Specified()
        assert leftover.exists()
        assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}
        first.close()
        assert brought(second, TWO, SETTINGS).errors == {}
    assert not leftover.exists()


def test_a_daemon_without_cdi_looks_after_what_is_left_once_another_has_ended(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path) as first, daemon(tmp_path) as second:
        brought(first, TWO, SETTINGS)
        assert second.bring_up_to_date(ONE, WITHOUT_CDI) is not None  # and is asked again
        assert "MIG-0-8-0" in names(tmp_path)
        first.close()
        assert second.bring_up_to_date(ONE, WITHOUT_CDI) is not None
        assert "MIG-0-8-0" not in names(tmp_path)
        assert second.bring_up_to_date(node(), WITHOUT_CDI) is None


def test_an_empty_file_of_our_name_is_what_a_power_failure_left(tmp_path: Path) -> None:
    (tmp_path / file_name(MIG)).touch()
    assert write(tmp_path, ONE).errors == {}
    assert names(tmp_path) == {"MIG-0-7-0", "0:0", "all"}


@pytest.mark.asyncio
async def test_a_daemon_that_starts_without_cdi_looks_after_what_is_left(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "cdi", tmp_path / "ledger.json"
    without = Settings(simulate="2xa100-40gb")
    with_cdi = dataclasses.replace(without, device_list_strategy=SETTINGS.device_list_strategy)
    for settings, inventory in ((with_cdi, TWO), (without, ONE)):
        specify = Specification(folder, ledger)
        with contextlib.closing(specify):
            written = entries(inventory, settings) if settings.by_cdi else {}
            assert await specify(inventory, settings) == Specified(written)
    assert names(folder) == {"MIG-0-7-0", "0:0", "all"}
    with contextlib.closing(Specification(folder, ledger)) as specify:
        assert await specify(node(), without) is None
        assert await specify(ONE, without) is None
    assert (contents(tmp_path), contents(folder)) == ([folder], [])
