"""Nobody but the daemon's user writes to what the daemon makes, whatever its umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.control.client import ask
from plugin.sim.kubelet.kubelet import SimKubelet

from .conftest import StartDaemon, sockets
from .waiting import SECONDS, becomes

NODE = "p4d.24xlarge:all-1g.5gb"
ONE_SLICE = "nvidia.com/mig-1g.5gb"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["000", "022", "077"])
def umask(request: pytest.FixtureRequest, kubelet: SimKubelet) -> Iterator[int]:
    """Of this process, from which the daemon has its own."""
    del kubelet  # is there already
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.asyncio
async def test_modes(
    kubelet: SimKubelet, start_daemon: StartDaemon, node_dir: Path, umask: int
) -> None:
    control = node_dir / "control" / "control.sock"
    ledger = node_dir / "state" / "folder" / "ledger.json"
    features = node_dir / "features"
    await start_daemon(
        NODE,
        f"--cdi-directory={node_dir / 'cdi'}",
        f"--features-file={features}",
        DEVICE_LIST_STRATEGY="cdi-cri",
        LEDGER_FILE=str(ledger),
    )
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    await becomes(control.exists)
    ask(str(control), "cordon", "0:0")
    await becomes(lambda: ledger.exists() and features.exists())
    (specification,) = (node_dir / "cdi").iterdir()
    (socket,) = sockets(kubelet)
    assert mode(control) == 0o600
    assert mode(control.parent) == 0o700
    assert {mode(path) for path in (ledger, features, specification)} == {0o644}
    assert mode(socket) & 0o022 == 0
    for folder in (ledger.parent, ledger.parent.parent, specification.parent):
        assert mode(folder) & 0o022 == 0
        assert mode(folder) == 0o755 & ~umask
