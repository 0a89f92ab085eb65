"""docs/partitioning.md shows what the commands print."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from plugin.arguments import parser_of
from plugin.commands import partition
from plugin.config.mig_configs import parse, read
from plugin.core.partition.configuration import choose, resolve
from plugin.core.partition.node import Action, plan_node
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import Occupant, RefusalCode
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
    given = parser_of(command).parse_args(command)
    node = parse_node(given.simulate)
    status = partition.plan(at(node), given.name, given.file, "wait", given.output)
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


def test_the_command_line_has_every_policy() -> None:
    for policy in Policy:
        command = ["partition", "plan", "--partition-in-use", policy.value]
        assert parser_of(command).parse_args(command).partition_in_use == policy.value


def test_every_field_action_and_code_of_the_json_form_is_documented(
    capsys: pytest.CaptureFixture[str],
) -> None:
    json_part = TEXT.partition("## JSON")[2]
    documented = set(re.findall(r"`([\w-]+)`", json_part))
    node = parse_node("2xa100-40gb:0=1g.5gb*7;1=off")
    node.use(next(iter(node.gpu(0).devices())).ci.uuid, 7)
    partition.plan(at(node), "all-2g.10gb", "", "wait", "json")
    assert _keys(json.loads(capsys.readouterr().out)) <= documented | {"1g.5gb", "2g.10gb"}
    assert {each.value for each in (*Action, *RefusalCode)} <= documented


def _keys(value: object) -> set[str]:
    """Names of fields, but for the operands of steps."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    if not isinstance(value, dict):
        return set()
    if "step" in value:
        return {"step", value["step"]}
    return set(value).union(*map(_keys, value.values()))


def test_every_policy_has_a_row() -> None:
    assert set(re.findall(r"^\| `(\w+)`[^|]*\| [^|]*\| [^|]*\|$", TEXT, re.MULTILINE)) >= set(
        Policy
    )
