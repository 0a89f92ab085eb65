"""``doctor``: every check in order, and the worst one as exit status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.commands.check import Check
from plugin.commands.doctor import checks, examine
from plugin.config.load import Loaded
from plugin.core.settings import Settings
from plugin.errors import ConfigError

from .doctor_checks import FAIL, MIXED, PASS, WARN, listening, named


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "kubelet.sock"
    with listening(path):
        yield path


def simulated(kubelet_socket: Path | str, tmp_path: Path) -> Settings:
    return replace(
        MIXED,
        simulate="p4d.24xlarge:all-1g.5gb",
        kubelet_socket=str(kubelet_socket),
        proc_root=str(tmp_path),
    )


def test_a_simulated_node_is_checked_as_a_real_one(kubelet: Path, tmp_path: Path) -> None:
    found = list(checks(Loaded(simulated(kubelet, tmp_path))))
    assert {check.outcome for check in found if check.name != "permissions"} == {PASS}
    assert "56 × nvidia.com/mig-1g.5gb" in named(found, "resources").detail
    assert "not needed" in named(found, "library").detail


def test_warnings_of_the_configuration_come_first(kubelet: Path, tmp_path: Path) -> None:
    loaded = Loaded(simulated(kubelet, tmp_path), ("--mps-root has no effect",))
    assert next(checks(loaded)) == Check(
        "configuration", WARN, "--mps-root has no effect", "remove the setting"
    )


def test_the_worst_verdict_is_the_exit_status(
    kubelet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = simulated(kubelet, tmp_path)
    good = Loaded(settings)
    assert examine(good) == max(check.outcome for check in checks(good))
    assert examine(Loaded(settings, ("odd [setting]",))) == WARN
    capsys.readouterr()
    assert examine(Loaded(replace(settings, simulate="1xa100-40gb:all-enabled"))) == FAIL
    out = capsys.readouterr().out
    assert "fail  resources:" in out
    assert "fix:" in out
    assert "\x1b" not in out


def test_brackets_are_printed_as_they_are(
    kubelet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examine(Loaded(simulated(kubelet, tmp_path), ("odd [setting]",)))
    assert "odd [setting]" in capsys.readouterr().out


def test_a_node_that_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ConfigError, match="--simulate: unknown node"):
        list(checks(Loaded(Settings(simulate="nonsense"))))


def test_a_driver_that_is_not_there_is_told_with_its_own_fix(tmp_path: Path) -> None:
    broken = tmp_path / "usr/lib64/libnvidia-ml.so.1"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no library; at all")
    settings = replace(MIXED, driver_root=str(tmp_path), container_driver_root=str(tmp_path))
    found = list(checks(Loaded(settings)))
    check = named(found, "library")
    assert check.outcome is FAIL
    assert "driver" not in {other.name for other in found}, "the same again"
    assert check.detail.startswith(f"cannot load libnvidia-ml.so.1 from {broken}: ")
    assert check.fix.startswith("install the NVIDIA driver, ")
