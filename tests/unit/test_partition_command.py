"""``partition plan``, ``assert`` and ``export``: what they print and how they end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from plugin.commands import partition
from plugin.commands.partition_pictures import LEGEND
from plugin.config.mig_configs import parse
from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.settings import Settings
from plugin.driver.base import Driver
from plugin.errors import ConfigError, DriverCallFailed
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from tests.partitioning import offers_of

from .podresources_peer import Peer, pod

ALONE = Settings(kubelet_socket="", control_socket="")


class Offering:
    """The simulated driver of a node, with the profiles of its cards."""

    def __init__(self, node: SimNode, silent: str = "") -> None:
        self._driver = simulate(node).driver
        self._offers = offers_of(node)
        self._silent = silent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def profiles(self, gpu_uuid: str) -> tuple[ProfileOffer, ...]:
        if gpu_uuid == self._silent:
            raise DriverCallFailed("reading GPU instance profile 0: Unknown Error", code=999)
        return self._offers[gpu_uuid]


def at(node: SimNode, silent: str = "", settings: Settings = ALONE) -> partition.Source:
    return partition.Source(settings, lambda: cast(Driver, Offering(node, silent)))


def run_plan(node: SimNode, name: str, policy: str = "wait", output: str = "text") -> int:
    return partition.plan(at(node), name, "", policy, output)


def test_a_plan_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    node = parse_node("3xa100-40gb:0-1=1g.5gb*7;2=balanced")
    node.use(next(iter(node.gpu(1).devices())).ci.uuid, 7)
    assert run_plan(node, "all-2g.10gb") == 0
    held = next(iter(node.gpu(1).devices())).ci.uuid
    assert capsys.readouterr().out.splitlines() == [
        "GPU 0  changes now: 3 × 2g.10gb",
        "  now   |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |········|",
        "  then  |+2g.10gb         |+2g.10gb         |+2g.10gb         |·················|",
        "  devices: 0 stay, 7 destroyed, 3 new",
        "GPU 1  waits: 3 × 2g.10gb",
        "  now   |!1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |-1g.5gb |········|",
        "  then  |+2g.10gb         |+2g.10gb         |+2g.10gb         |·················|",
        "  devices: 0 stay, 7 destroyed, 3 new",
        f"  GPU 1 waits for 1:0 ({held}), held by process 7",
        "GPU 2  changes now: 3 × 2g.10gb",
        "  now   | 2g.10gb         |-1g.5gb |-1g.5gb |-3g.20gb                           |",
        "  then  | 2g.10gb         |+2g.10gb         |+2g.10gb         |·················|",
        "  devices: 1 stay, 3 destroyed, 2 new",
        LEGEND,
    ]


def test_signs_of_what_changes_inside_is_in_use_or_empty(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    node = parse_node("1xa100-40gb:0=1c.3g.20gb*2,2g.10gb")
    node.use(next(s.ci.uuid for s in node.gpu(0).devices() if s.ci.slices == 2), 7)
    node.create_gi(0, "1g.5gb")
    path = file(tmp_path, {"2g.10gb": 1, "2c.3g.20gb": 1})
    assert partition.plan(at(node), "", path, "wait", "text") == 0
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "  now   |~2×1c.3g.20gb                          |*2g.10gb           |-(1g.5gb)|·········|",
        "  then  |~2c.3g.20gb                            | 2g.10gb           |···················|",
        "  devices: 1 stay, 2 destroyed, 1 new",
    ]


def test_long_names_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(parse_node("1xrtx-pro-6000-96gb:all-1g.24gb-me"), "all-1g.24gb.me.all") == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "  now   |-1g.24gb-me    |-1g.24gb-me    |-1g.24gb-me    |-1g.24gb-me    |",
        "  then  |+1g.24gb+me.all|···············································|",
    ]


def test_a_plan_of_a_card_with_mig_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(parse_node("1xa30-24gb"), "all-4g.24gb") == 0
    assert capsys.readouterr().out.splitlines() == [
        "GPU 0  changes now: 1 × 4g.24gb",
        "  now   | MIG off                           |",
        "  then  |+4g.24gb                           |",
        "  switch MIG mode on, which takes a GPU reset; devices: 0 stay, 0 destroyed, 1 new",
        LEGEND,
    ]


def test_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    node = parse_node("2xa100-40gb:0=1g.5gb*7;1=balanced")
    held = next(iter(node.gpu(0).devices())).ci.uuid
    node.use(held, 7)
    assert run_plan(node, "all-balanced", "refuse", "json") == 0
    made = json.loads(capsys.readouterr().out)
    assert {key: made[key] for key in ("configuration", "inUsePolicy", "applied")} == {
        "configuration": "all-balanced",
        "inUsePolicy": "refuse",
        "applied": False,
    }
    first, second = made["gpus"]
    assert (first["action"], second["action"]) == ("change", "nothing")
    assert held in first["kept"]
    assert [step["step"] for step in first["steps"]] == (
        ["destroy-compute-instance"] * 5
        + ["destroy-gpu-instance"] * 5
        + ["create-gpu-instance", "create-compute-instance"] * 2
    )
    assert second["steps"] == []
    assert run_plan(node, "all-7g.40gb", "refuse", "json") == 1
    first, second = json.loads(capsys.readouterr().out)["gpus"]
    assert first["reason"]["code"] == "in-use"
    assert first["blockers"] == [{"device": "0:0", "uuid": held, "holders": ["process 7"]}]
    assert second["action"] == "held"


def test_profiles_that_the_driver_does_not_say(capsys: pytest.CaptureFixture[str]) -> None:
    node = parse_node("2xa100-40gb:all-1g.5gb")
    silent = at(node, node.gpu(0).uuid)
    assert partition.plan(silent, "all-enabled", "", "wait", "text") == 1
    shown = capsys.readouterr()
    assert "GPU 0: reading GPU instance profile 0: Unknown Error" in shown.err
    assert "GPU 0  is refused" in shown.out
    assert "GPU 1  changes now" in shown.out


def test_a_configuration_that_names_no_gpu(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = file(tmp_path, {"1g.5gb": 1}, devices=[5])
    node = parse_node("1xa100-40gb")
    assert partition.plan(at(node), "mine", path, "wait", "text") == 0
    shown = capsys.readouterr()
    assert shown.out == "mine names no GPU of this node\n"
    assert "mine[0] names GPU 5, which this node does not have" in shown.err


def file(folder: Path, profiles: dict[str, int], **changes: Any) -> str:
    """A file with one configuration."""
    entry = {"devices": "all", "mig-enabled": True, "mig-devices": profiles, **changes}
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({"version": "v1", "mig-configs": {"mine": [entry]}}), encoding="utf-8"
    )
    return str(path)


def test_assert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    node = parse_node("2xa100-40gb:all-balanced")

    def check(name: str, path: str = "", output: str = "text") -> tuple[int, str]:
        status = partition.check(at(node), name, path, output)
        return status, capsys.readouterr().out

    assert check("all-balanced") == (0, "all-balanced is applied on 2 GPUs\n")
    assert check("", file(tmp_path, {"3g.20gb": 1}, devices=[1])) == (
        1,
        "GPU 1: 2 × 1g.5gb, wanted 0\n",
    )
    status, out = check("all-disabled", output="json")
    assert status == 1
    assert json.loads(out) == {
        "configuration": "all-disabled",
        "applied": False,
        "differences": dict.fromkeys(("0", "1"), "MIG mode is on, wanted off"),
    }


def test_the_node_has_a_file_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    node = parse_node("1xa100-40gb:all-3g.20gb")
    path = file(tmp_path, {"3g.20gb": 2})
    where = at(node, settings=replace(ALONE, partition_file=path))
    assert partition.check(where, "mine", "", "text") == 0
    assert partition.plan(where, "mine", "", "wait", "text") == 0
    (tmp_path / "other").mkdir()
    other = file(tmp_path / "other", {"3g.20gb": 1})
    assert partition.check(where, "mine", other, "text") == 1
    with pytest.raises(ConfigError, match="did you mean mine"):
        partition.check(where, "min", "", "text")
    where = at(node, settings=replace(ALONE, partition_file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"partition file .*: cannot be read"):
        partition.check(where, "all-3g.20gb", "", "text")
    capsys.readouterr()


def test_a_configuration_must_be_named(tmp_path: Path) -> None:
    node = parse_node("1xa30-24gb")
    with pytest.raises(ConfigError, match="-c is missing: name a MIG configuration; the choices"):
        run_plan(node, "")
    with pytest.raises(ConfigError, match=r"partition file .*: cannot be read"):
        partition.plan(at(node), "x", str(tmp_path / "none"), "wait", "text")


@pytest.mark.parametrize("output", ["text", "json"])
def test_export_is_a_file_that_assert_finds_applied(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, output: str
) -> None:
    node = parse_node("4xa100-40gb:0-1=3g.20gb,1c.3g.20gb*2;2=on")
    assert partition.show_current(at(node), output) == 0
    text = capsys.readouterr().out
    assert list(parse("x", yaml.safe_load(text))) == ["current"]
    path = tmp_path / "current.yaml"
    path.write_text(text, encoding="utf-8")
    assert partition.check(at(node), "", str(path), "text") == 0


def test_an_export_that_lacks_a_gpu_fails(capsys: pytest.CaptureFixture[str]) -> None:
    node = parse_node("2xa100-40gb")
    node.lose(1)
    assert partition.show_current(at(node), "text") == 1
    assert "GPU 1" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_pods_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    node = parse_node("1xa100-40gb:all-1g.5gb")
    held = next(iter(node.gpu(0).devices())).ci.uuid
    node.use(held, 7)
    peer = Peer(tmp_path / "k.sock", [pod("one", main=[[f"{held}::1"]])])
    settings = Settings(pod_resources_socket=str(peer.socket))
    async with peer.listening():
        status = await asyncio.to_thread(
            partition.plan, at(node, settings=settings), "all-7g.40gb", "", "evict", "text"
        )
    assert status == 0
    out = capsys.readouterr().out
    assert "GPU 0  evicts pods, then changes: 1 × 7g.40gb" in out
    assert f"GPU 0 waits for 0:0 ({held}), held by ml/one" in out


def test_processes_that_are_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    node = parse_node("1xa100-40gb:all-3g.20gb")
    node.calls.inject("nvmlDeviceGetComputeRunningProcesses_v3", Fail(Code.UNKNOWN))
    assert run_plan(node, "all-3g.20gb") == 0
    assert "processes are not known: " in capsys.readouterr().err


@pytest.mark.parametrize("socket", ["", "missing.sock", "dead.sock"])
def test_unknown_is_not_free(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, socket: str
) -> None:
    (tmp_path / "dead.sock").touch()
    node = parse_node("1xa100-40gb:all-3g.20gb")
    settings = Settings(pod_resources_socket=str(tmp_path / socket) if socket else "")
    where = at(node, settings=settings)
    assert partition.plan(where, "all-7g.40gb", "", "wait", "json") == 0
    shown = capsys.readouterr()
    (gpu,) = json.loads(shown.out)["gpus"]
    assert (gpu["action"], len(gpu["blockers"])) == ("wait", 2)
    assert "every device counts as held, unless --partition-in-use=force" in shown.err
    assert partition.plan(where, "all-7g.40gb", "", "force", "json") == 0
    assert json.loads(capsys.readouterr().out)["gpus"][0]["action"] == "change"
