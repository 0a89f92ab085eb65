"""The features file of a running plugin, and the command that prints it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.assembly import assemble
from plugin.core.settings import MigStrategy, Settings
from plugin.labels.document import from_text
from plugin.sim.hardware.engine import parse_node
from plugin.sim.simulation import simulate

from .harness import NEVER, live
from .waiting import becomes

NODE = "p4d.24xlarge:all-1g.5gb"
ONE, THREE = "nvidia.com/mig-1g.5gb.count", "nvidia.com/mig-3g.20gb.count"


def read(path: Path) -> dict[str, str]:
    return from_text(path.read_text(encoding="utf-8")) if path.is_file() else {}


def stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


@pytest.fixture
def features(node_dir: Path) -> Path:
    folder = node_dir / "features.d"
    folder.mkdir()
    return folder / "mig-device-plugin"


def configured(features: Path | None) -> Settings:
    return Settings(
        mig_strategy=MigStrategy.MIXED,
        quiet_seconds=NEVER,
        features_file=str(features or ""),
    )


@pytest.mark.asyncio
async def test_a_change_of_geometry_is_in_the_file(node_dir: Path, features: Path) -> None:
    async with live(node_dir, NODE, configured(features)) as plugin:
        await becomes(lambda: read(features).get(ONE) == "56")
        await asyncio.to_thread(plugin.hardware.set_geometry, 0, ["3g.20gb"] * 2)
        await becomes(lambda: read(features).get(ONE) == "49")
        assert read(features)[THREE] == "2"


@pytest.mark.asyncio
async def test_faults_and_a_driver_that_is_away_change_nothing_in_it(
    node_dir: Path, features: Path
) -> None:
    async with live(node_dir, NODE, configured(features)) as plugin:
        await becomes(lambda: read(features).get(ONE) == "56")
        before = stamp(features)
        plugin.hardware.fault(0, 79)
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 7)
        plugin.hardware.faults.set_available(available=False)
        plugin.node.rescan()
        await plugin.becomes(lambda: len(plugin.unhealthy()) == 56)
        assert stamp(features) == before


@pytest.mark.asyncio
async def test_it_outlives_the_daemon_and_goes_when_it_is_switched_off(
    node_dir: Path, features: Path
) -> None:
    hardware = parse_node(NODE)
    async with live(node_dir, hardware, configured(features)):
        await becomes(lambda: read(features).get(ONE) == "56")
    before = stamp(features)
    async with live(node_dir, hardware, configured(features)) as plugin:
        assert stamp(features) == before
        assert plugin.node.store.snapshot.geometry == 1
    async with live(node_dir, hardware, configured(None)):
        await becomes(lambda: not features.exists())
    async with live(node_dir, hardware, configured(None)):
        assert list(features.parent.iterdir()) == []


@pytest.mark.parametrize("on", [True, False])
def test_nothing_runs_for_it_when_it_is_off(node_dir: Path, features: Path, *, on: bool) -> None:
    settings = replace(
        configured(features if on else None), kubelet_socket=str(node_dir / "k.sock")
    )
    daemon = assemble(settings, simulate(parse_node(NODE)).driver, node_dir / "ledger.json")
    assert ("features" in daemon.edges().loops) is on


@pytest.mark.parametrize("output", ["text", "json", "features"])
def test_the_command_prints_them(output: str) -> None:
    command = ["labels", "--simulate", NODE, "--mig-strategy", "single", "--output", output]
    done = subprocess.run(
        [sys.executable, "-m", "plugin", *command],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    lines = done.stdout.splitlines()
    wanted = {
        "text": "nvidia.com/gpu.product=NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
        "features": "nvidia.com/gpu.product=NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
        "json": '  "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",',
    }
    assert wanted[output] in lines
    assert lines[0].startswith("#") is (output == "features")
