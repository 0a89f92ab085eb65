"""Features that are off cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plugin.sim.kubelet.kubelet import SimKubelet

if TYPE_CHECKING:
    from .conftest import StartDaemon


@pytest.mark.asyncio
async def test_without_cluster_features_the_client_is_not_imported(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    del kubelet
    daemon = await start_daemon("1xa100-40gb:all-1g.5gb", PYTHONPROFILEIMPORTTIME="1")
    await daemon.logged("registered")
    assert await daemon.stop() == 0
    imported = {line.rpartition("|")[2].strip() for line in daemon.log.splitlines()}
    assert "plugin.kubelet.deviceplugin.supervisor" in imported
    assert not {
        name
        for name in imported
        if name.startswith(("plugin.cluster", "plugin.reporting", "plugin.sim.apiserver", "h11"))
    }


@pytest.mark.asyncio
async def test_a_start_imports_what_answers_commands_and_scrapes_with_the_first_of_them(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    del kubelet
    daemon = await start_daemon("1xa100-40gb:all-1g.5gb", PYTHONPROFILEIMPORTTIME="1")
    await daemon.logged("registered")
    assert await daemon.stop() == 0
    imported = {line.rpartition("|")[2].strip() for line in daemon.log.splitlines()}
    assert "plugin.control.verbs" in imported
    later = {"plugin.core.status", "plugin.config.export", "plugin.sim.verbs", "difflib"}
    later |= {"plugin.sim.hardware.recording", "plugin.web.metrics.scrape", "prometheus_client"}
    assert not later & imported
