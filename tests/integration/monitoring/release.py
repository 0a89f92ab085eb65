"""The chart as an operator would install it, and the daemon that Prometheus scrapes."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml

from plugin.control.client import ask
from plugin.sim.kubelet.kubelet import SimKubelet
from tests.integration.conftest import Daemon, StartDaemon
from tests.integration.prometheus import Prometheus, fetch

CHART = Path(__file__).resolve().parents[3] / "charts" / "mig-device-plugin"
NODE = "p5.48xlarge:all-balanced"
#: What the stand-in kubelet's node offers then.
ONE, TWO, THREE = (f"nvidia.com/mig-{profile}" for profile in ("1g.10gb", "2g.20gb", "3g.40gb"))
PLUGIN_POD = "gpu-mig-device-plugin-x7k2p"


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


# ---- the dashboard


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        render(MONITORING)["ConfigMap"]["data"]["mig-device-plugin.json"]
    )
    return found
