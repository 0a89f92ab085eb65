"""The chart's alerts in a real Prometheus: faults, a hung driver, kubelet or daemon away."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.sim.kubelet.pods import Pod
from tests.integration.conftest import StartDaemon
from tests.integration.prometheus import PROMETHEUS

from .release import ONE, PLUGIN_POD, THREE, TWO, Watched, start

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus (Debian's package prometheus)"),
]


@pytest.mark.timeout(180)
async def test_alerts_fire_on_faults_and_resolve(watched: Watched) -> None:
    prometheus, tell = watched.prometheus, watched.tell
    pod = Pod("train", namespace="ml", containers={"main": {ONE: 1}})
    await watched.kubelet.admit(pod)
    allocated = 'mig_device_plugin_device_allocated{pod="train"}'
    await prometheus.holds(allocated)
    (held,) = (sample.labels for sample in await prometheus.query(allocated))

    await tell("sim", "xid", held["uuid"], "109")
    for _ in range(10):
        await tell("sim", "xid", "6:0", "31")
    await tell("sim", "lose", "5")
    await tell("sim", "recovery", "4", "reset")
    await tell("cordon", "3")
    await tell("sim", "repartition", "7=on")

    alert = await prometheus.fires("MigDeviceDown", uuid=held["uuid"], reason="xid-109")
    profile = "1g.10gb"
    assert alert["labels"]["severity"] == "warning"
    assert (
        f"MIG device {profile} on GPU {held['gpu']} of node node-1 is out of service"
        in (alert["annotations"]["summary"])
    )
    assert f"health clear {held['uuid']}" in alert["annotations"]["description"]
    await prometheus.fires("MigPodOnFaultyDevice", namespace="ml", pod="train", container="main")
    await prometheus.fires("MigFaultStorm", gpu="6")
    await prometheus.fires("MigGpuDown", gpu="5", severity="critical")
    alert = await prometheus.fires("MigGpuNeedsRecovery", gpu="4")
    assert "reset the GPU" in alert["annotations"]["summary"]
    await prometheus.fires("MigCordonForgotten", gpu="3")
    await prometheus.fires("MigDevicesWithheld", node="node-1")
    for alert in (await prometheus.api("alerts"))["alerts"]:
        assert "<error" not in str(alert["annotations"]), alert
        assert "<no value>" not in str(alert["annotations"]), alert

    await tell("clear", held["uuid"])
    await tell("sim", "restore", "5")
    await tell("sim", "recovery", "4", "none")
    await tell("uncordon", "3")
    await tell("sim", "repartition", "7=balanced")
    await prometheus.holds("mig_device_plugin_gpu_recovery_action == 0")
    for gpu in ("4", "5", "6"):
        await tell("clear", gpu)
    await tell("clear", "6:0")
    for name in (
        *(
            "MigDeviceDown",
            "MigPodOnFaultyDevice",
            "MigFaultStorm",
            "MigGpuDown",
            "MigGpuNeedsRecovery",
        ),
        *("MigCordonForgotten", "MigDevicesWithheld"),
    ):
        await prometheus.resolves(name)
    assert await prometheus.firing() == []


@pytest.mark.timeout(180)
async def test_a_hung_driver_and_one_that_is_not_loaded_are_told_apart(watched: Watched) -> None:
    prometheus = watched.prometheus
    await watched.tell("sim", "hang")
    await prometheus.fires("MigDriverNotAnswering", node="node-1")
    await watched.tell("sim", "unhang")
    await prometheus.resolves("MigDriverNotAnswering")

    await watched.tell("sim", "unload")
    await prometheus.fires("MigDriverUnavailable", node="node-1")
    names = {alert["alertname"] for alert in await prometheus.firing()}
    assert not names & {"MigDeviceDown", "MigGpuDown"}, "one cause, one alert"
    await watched.tell("sim", "load")
    await prometheus.resolves("MigDriverUnavailable")
    assert await prometheus.query("up == 0") == []


@pytest.mark.timeout(180)
async def test_kubelet_or_the_daemon_away(
    node_dir: Path, watched: Watched, start_daemon: StartDaemon
) -> None:
    prometheus = watched.prometheus
    await watched.kubelet.stop()
    for resource in (ONE, TWO, THREE):
        await prometheus.fires("MigResourceNotRegistered", resource=resource, severity="critical")
    await watched.kubelet.start()
    await prometheus.resolves("MigResourceNotRegistered")

    assert await watched.daemon.stop() == 0
    await prometheus.fires("MigPluginDown", node="node-1", instance=PLUGIN_POD)
    await start(node_dir, start_daemon, int(watched.page.rpartition(":")[2]))
    await prometheus.resolves("MigPluginDown")
    await prometheus.holds("mig_device_plugin_device_memory_total_bytes")
