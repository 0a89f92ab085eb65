"""A real Prometheus, told by the chart's own PodMonitor, scrapes the daemon on a simulated node:
what the chart's alerts and its dashboard make of that.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import pytest
import pytest_asyncio
import yaml

from plugin.control.client import ask
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import SECONDS, Daemon, StartDaemon
from .prometheus import PROMETHEUS, Prometheus, fetch, free_port, running

CHART = Path(__file__).resolve().parents[2] / "charts" / "mig-device-plugin"
NODE = "p5.48xlarge:all-balanced"
#: What the stand-in kubelet's node offers then.
ONE, TWO, THREE = (f"nvidia.com/mig-{profile}" for profile in ("1g.10gb", "2g.20gb", "3g.40gb"))
PLUGIN_POD = "gpu-mig-device-plugin-x7k2p"
#: Queries with nothing to show on this node: rows that wait or failed, and what no card says in MIG
#: mode.
NOTHING_TO_SHOW = {
    "Remapped memory rows B",
    "Remapped memory rows C",
    "Utilisation of whole cards A",
}

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus (Debian's package prometheus)"),
]


# ---- the node


@dataclass
class Watched:
    """The daemon, what it runs on, and the Prometheus that scrapes it. ``page`` is where its HTTP
    server is.
    """

    daemon: Daemon
    kubelet: SimKubelet
    prometheus: Prometheus
    page: str
    control: str

    async def tell(self, verb: str, *arguments: str) -> None:
        """A command on the control socket, such as ``sim xid 0:1 109``."""
        await asyncio.to_thread(ask, self.control, verb, *arguments)

    async def scrape(self) -> str:
        status, body = await fetch(f"{self.page}/metrics")
        assert status == 200
        return body


@pytest_asyncio.fixture
async def kubelet(node_dir: Path) -> AsyncIterator[SimKubelet]:
    """With pod resources, other than the usual one."""
    folder = node_dir / "plugins"
    async with SimKubelet(
        folder, pod_resources_dir=node_dir / "pods", readmission_s=None, seed=1
    ) as running_kubelet:
        yield running_kubelet


@pytest_asyncio.fixture
async def watched(
    node_dir: Path, kubelet: SimKubelet, start_daemon: StartDaemon
) -> AsyncIterator[Watched]:
    """A daemon whose devices stay out of service until told otherwise, and a Prometheus that has
    scraped it.
    """
    release = render(MONITORING)
    port = free_port()
    daemon = await start(node_dir, start_daemon, port)
    # Prometheus takes 5 s to its first scrape, in which the daemon starts.
    async with running(
        node_dir / "prometheus", [scrape_config(release, port)], release["PrometheusRule"]["spec"]
    ) as it:
        await kubelet.wait_allocatable(ONE, 16, SECONDS)
        await it.holds("mig_device_plugin_device_memory_total_bytes")
        await it.settles()
        yield Watched(
            daemon,
            kubelet,
            it,
            f"http://127.0.0.1:{port}",
            str(node_dir / "control" / "control.sock"),
        )


async def start(node_dir: Path, start_daemon: StartDaemon, port: int) -> Daemon:
    return await start_daemon(
        NODE,
        HTTP_ADDRESS=f"127.0.0.1:{port}",
        POD_RESOURCES_SOCKET=str(node_dir / "pods" / "kubelet.sock"),
        SAMPLE_INTERVAL="1",
        PROBE_INTERVAL="0.2",
        RESCAN_INTERVAL="1",
        QUIET_PERIOD="86400",
        DCGM_NAMES="true",
    )


def alert_names() -> list[str]:
    return [rule["alert"] for rule in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())]


#: As an operator would install it, but with alerts that do not wait.
MONITORING: dict[str, Any] = {
    # A label of the target that metrics have as well.
    "podMonitor": {"enabled": True, "relabelings": [{"targetLabel": "gpu", "replacement": "H100"}]},
    "prometheusRule": {
        "enabled": True,
        "driverHangSeconds": 2,
        "faultStorm": {"count": 10, "window": "15s"},
        "alerts": {name: {"for": "1s"} for name in alert_names()},
    },
    "dashboard": {"enabled": True},
}


def render(values: dict[str, Any]) -> dict[str, Any]:
    """Manifests by kind; the dashboard is the only ConfigMap."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="gpu", namespace="kube-system")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return {
        manifest["kind"]: manifest
        for text in texts
        for manifest in yaml.safe_load_all(text)
        if manifest
    }


def scrape_config(release: dict[str, Any], port: int) -> dict[str, Any]:
    """What the Prometheus operator makes of the PodMonitor, with the one pod that discovery would
    find.
    """
    (endpoint,) = release["PodMonitor"]["spec"]["podMetricsEndpoints"]
    pod = {
        "__meta_kubernetes_namespace": "kube-system",
        "__meta_kubernetes_pod_name": PLUGIN_POD,
        "__meta_kubernetes_pod_container_name": "mig-device-plugin",
        "__meta_kubernetes_pod_node_name": "node-1",
    }
    operator = [
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"target_label": "job", "replacement": "kube-system/gpu-mig-device-plugin"},
        {"target_label": "endpoint", "replacement": endpoint["port"]},
    ]
    return {
        "job_name": "podMonitor/kube-system/gpu-mig-device-plugin/0",
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "honor_labels": endpoint["honorLabels"],
        "relabel_configs": operator
        + [snake_case(relabeling) for relabeling in endpoint["relabelings"]],
        "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": pod}],
    }


def snake_case(relabeling: dict[str, Any]) -> dict[str, Any]:
    return {
        re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", key): value
        for key, value in relabeling.items()
    }


# ---- scraping


async def test_scrapes_are_clean_and_name_the_holders(watched: Watched) -> None:
    prometheus = watched.prometheus
    await watched.kubelet.admit(
        Pod("train", namespace="ml", containers={"main": {ONE: 2, THREE: 1}})
    )
    await watched.tell("sim", "xid", "1:0", "109")
    await prometheus.holds('mig_device_plugin_device_allocated{pod="train"}')
    await prometheus.holds('mig_device_plugin_device_unhealthy_reason{reason="xid-109"}')
    await prometheus.holds('sum_over_time(up{job="mig-device-plugin"}[30s]) >= 5')

    (target,) = (await prometheus.api("targets"))["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"] == {
        "job": "mig-device-plugin",
        "instance": PLUGIN_POD,
        "node": "node-1",
        "endpoint": "http",
        "gpu": "H100",
    }
    assert await prometheus.query("up == 0") == []
    assert prometheus.complaints == []
    _, own = await fetch(f"{prometheus.url}/metrics")
    refused = dict(
        re.findall(
            r"^(prometheus_target_scrapes?_\S*(?:duplicate|out_of|exceeded)\S*) (\S+)$",
            own,
            re.MULTILINE,
        )
    )
    assert len(refused) >= 4
    assert set(refused.values()) == {"0"}

    text = await watched.scrape()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series)) > 500
    assert await prometheus.value("scrape_samples_scraped") == len(series)
    assert await prometheus.value("scrape_samples_post_metric_relabeling") == len(series)
    await holders_are_told(watched)


async def holders_are_told(watched: Watched) -> None:
    """A device has the labels of the pod that holds it or none, and never those of the plugin's own
    pod.
    """
    held = 'mig_device_plugin_device_healthy{namespace="ml", pod="train", container="main"}'
    await watched.prometheus.holds(f"count({held}) == 3")
    healthy = await watched.prometheus.query("mig_device_plugin_device_healthy")
    named = [sample.labels.get("pod") for sample in healthy]
    assert (named.count("train"), named.count(None)) == (3, len(named) - 3)
    assert {sample.labels["node"] for sample in healthy} == {"node-1"}
    assert {sample.labels["gpu"] for sample in healthy} == set("01234567")
    assert {sample.labels["instance"] for sample in healthy} == {PLUGIN_POD}
    for name in (
        "mig_device_plugin_gpu_power_watts",
        "mig_device_plugin_device_cordoned",
        "DCGM_FI_DEV_GPU_TEMP",
    ):
        cards = await watched.prometheus.query(name)
        assert cards, name
        assert not any(
            {"pod", "namespace", "container", "exported_pod"} & sample.labels.keys()
            for sample in cards
        )


# ---- the dashboard


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        render(MONITORING)["ConfigMap"]["data"]["mig-device-plugin.json"]
    )
    return found


def queries(board: dict[str, Any]) -> dict[str, str]:
    """Every expression of the dashboard by where it stands, with Grafana's variables filled in."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    found |= {annotation["name"]: annotation["expr"] for annotation in board["annotations"]["list"]}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            series, _, label = (
                variable["definition"]
                .removeprefix("label_values(")
                .removesuffix(")")
                .rpartition(", ")
            )
            found[f"${variable['name']}"] = f"group by ({label}) ({series})"
    filled = {}
    for place, expression in found.items():
        for name, value in (
            ("$__rate_interval", "1m"),
            ("$node", ".*"),
            ("$gpu", ".*"),
            ("$namespace", ".*"),
        ):
            expression = expression.replace(name, value)  # noqa: PLW2901 — one after the other
        assert "$" not in expression, (
            f"{place} uses a variable that the dashboard does not have: {expression}"
        )
        filled[place] = expression
    return filled


async def test_every_query_of_the_dashboard_has_an_answer(watched: Watched) -> None:
    prometheus = watched.prometheus
    await watched.kubelet.admit(Pod("train", namespace="ml", containers={"main": {ONE: 2}}))
    await prometheus.holds('mig_device_plugin_device_allocated{pod="train"}')
    await watched.tell("sim", "hold", "4:0", "77")  # a process that no pod accounts for
    await watched.tell("sim", "xid", "5:0", "109")
    await watched.tell("sim", "recovery", "2", "reset")
    await watched.tell("cordon", "3")
    await watched.tell("sim", "repartition", "7=1g.10gb*3")
    await prometheus.holds('sum(mig_device_plugin_devices{state="unhealthy"}) == 1 + 4 + 4')
    await prometheus.holds('sum(mig_device_plugin_devices{state="healthy"}) == 31 - 1 - 4 - 4')
    await prometheus.holds('ALERTS{alertname=~"Mig.*", alertstate="firing"}')
    await prometheus.holds('mig_device_plugin_device_processes{pod=""} > 0')
    await prometheus.holds("changes(mig_device_plugin_geometry_generation[1m]) > 0")

    wanted = queries(dashboard())
    assert len(wanted) > 30
    empty = set()
    for place, expression in wanted.items():
        answer = await prometheus.query(expression)
        now = await prometheus.value("time()")
        await prometheus.api(
            "query_range", query=expression, start=str((now or 0) - 60), end=str(now), step="5"
        )
        if not answer:
            empty.add(place)
    assert empty == NOTHING_TO_SHOW
    assert prometheus.complaints == []
    await numbers_are_the_nodes(prometheus, wanted)


async def numbers_are_the_nodes(prometheus: Prometheus, wanted: dict[str, str]) -> None:
    """One device is faulty, GPU 2 waits for a reset, GPU 3 is cordoned, GPU 7 has three small
    instances only.
    """

    async def shown(title: str) -> float | None:
        return await prometheus.value(wanted[f"{title} A"])

    assert await shown("Plugins up") == 1
    assert await shown("GPUs") == 8
    assert await shown("Healthy") == 31 - 1 - 4 - 4
    assert await shown("Unhealthy") == 1 + 4 + 4
    assert await shown("Held by pods") == 2
    assert await shown("Cordoned") == 4
    assert await shown("Withheld") == 0
    free = await prometheus.query(wanted["Free devices per GPU A"])
    assert sum(sample.value for sample in free) == 31 - 1 - 4 - 4 - 2
    slices = await prometheus.query(wanted["Memory slices in no instance A"])
    assert {sample.labels["gpu"]: sample.value for sample in slices} == {
        str(n): 5 if n == 7 else 0 for n in range(8)
    }


# ---- alerts


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
