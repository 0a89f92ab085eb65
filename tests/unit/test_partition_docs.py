"""docs/partitioning.md shows what the commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from plugin.cli import _parser
from plugin.commands import partition
from plugin.config.mig_configs import parse, read
from plugin.core.partition.configuration import choose, resolve
from plugin.core.partition.node import Policy, plan_node
from plugin.core.partition.steps import Occupant
from plugin.core.partition.usual import usual
from plugin.errors import ConfigError
from plugin.sim.hardware.engine import parse_node
from tests.partitioning import inventory, offers_of

from .test_partition_command import at

TEXT = Path(__file__).resolve().parents[2].joinpath("docs/partitioning.md").read_text("utf-8")
(FILE,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_plan_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(
        r"^\$ mig-device-plugin (.* --simulate .*)\n((?:[^`].*\n)+)```", TEXT, re.MULTILINE
    )
    assert found is not None
    command = shlex.split(found[1])
    given = _parser(command).parse_args(command)
    node = parse_node(given.simulate)
    status = partition.plan(at(node), given.name, given.file, given.partition_in_use, given.output)
    assert status == 0
    assert capsys.readouterr().out == found[2]


def test_the_example_of_a_device_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    read_node = inventory(node)
    in_use = {read_node.gpus[1].mig_devices[0].uuid: (Occupant("ml/train", pod=True),)}
    wanted = resolve(choose("all-2g.10gb", usual(read_node, offers_of(node))), read_node)
    made = plan_node(read_node, offers_of(node), wanted, in_use, Policy.WAIT)
    partition.show(made, in_use)
    (shown,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert capsys.readouterr().out.startswith(shown)


def test_the_example_file_is_read() -> None:
    assert list(parse("x", yaml.safe_load(FILE))) == ["training", "per-card"]


def test_the_example_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(FILE.replace("3g.20gb", "3g", 1), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read(Path("config.yaml"))
    assert f"\nmig-device-plugin: {refused.value}\n" in TEXT


def test_every_policy_has_a_row() -> None:
    assert set(re.findall(r"^\| `(\w+)`[^|]*\| [^|]*\| [^|]*\|$", TEXT, re.MULTILINE)) >= set(
        Policy
    )
