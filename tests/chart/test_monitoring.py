"""What Prometheus and Grafana are given. tests/integration/monitoring has a real Prometheus
make use of it.
"""

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from plugin.web.metrics.scrape import FAMILIES

if TYPE_CHECKING:
    from .conftest import Renderer

#: A histogram's series have names of their own.
KNOWN = {
    family.name + suffix for family in FAMILIES for suffix in ("", "_bucket", "_count", "_sum")
}
VARIABLES = {"datasource", "node", "gpu", "namespace"}


@pytest.fixture(scope="module")
def board(render: "Renderer") -> dict[str, Any]:
    (config_map,) = render({"dashboard": {"enabled": True}}).of_kind("ConfigMap")
    found: dict[str, Any] = json.loads(config_map["data"]["mig-device-plugin.json"])
    return found


def test_nothing_of_it_is_there_by_default(render: "Renderer") -> None:
    release = render()
    assert {manifest["kind"] for manifest in release.manifests} == {
        "DaemonSet",
        "Service",
        "ServiceAccount",
    }


def test_pod_monitor_finds_the_pods(render: "Renderer") -> None:
    release = render(
        {"podMonitor": {"enabled": True, "labels": {"release": "kps"}, "interval": "30s"}}
    )
    (monitor,) = release.of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["metadata"]["labels"]["release"] == "kps"
    assert monitor["spec"]["selector"] == release.daemonset["spec"]["selector"]
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["kube-system"]}
    assert endpoint["port"] == release.container["ports"][0]["name"]
    assert (endpoint["path"], endpoint["scheme"], endpoint["interval"]) == (
        "/metrics",
        "http",
        "30s",
    )
    assert not {"tlsConfig", "scrapeTimeout", "metricRelabelings"} & endpoint.keys()


def test_pod_monitor_leaves_the_holders_of_devices_alone(render: "Renderer") -> None:
    mine = {"action": "labeldrop", "regex": "endpoint"}
    (monitor,) = render({"podMonitor": {"enabled": True, "relabelings": [mine]}}).of_kind(
        "PodMonitor"
    )
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["relabelings"] == [
        {"action": "labeldrop", "regex": "namespace|pod|container"},
        {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"},
        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"},
        {"targetLabel": "job", "replacement": "mig-device-plugin"},
        mine,
    ]


def test_pod_monitor_speaks_tls_when_the_daemon_does(render: "Renderer") -> None:
    trust = {"serverName": "mig", "ca": {"secret": {"name": "certificate", "key": "ca.crt"}}}
    values = {
        "http": {"tls": {"secretName": "certificate"}},
        "podMonitor": {
            "enabled": True,
            "tlsConfig": trust,
            "scrapeTimeout": "5s",
            "metricRelabelings": [{"action": "drop"}],
        },
    }
    (monitor,) = render(values).of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"], endpoint["scrapeTimeout"]) == (
        "https",
        trust,
        "5s",
    )
    assert endpoint["metricRelabelings"] == [{"action": "drop"}]


def test_dashboard_is_found_by_grafanas_sidecar(render: "Renderer", board: dict[str, Any]) -> None:
    values = {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "GPU"}}}
    (config_map,) = render(values).of_kind("ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config_map["metadata"]["annotations"] == {"grafana_folder": "GPU"}
    assert len(json.dumps(config_map)) < 1 << 20, "what a ConfigMap may hold"
    assert (board["uid"], board["title"]) == ("mig-device-plugin", "MIG devices")


def test_dashboard_is_beside_the_configuration(render: "Renderer") -> None:
    both = {
        "dashboard": {"enabled": True},
        "config": {"inline": {"version": "v1"}},
        "fullnameOverride": "x" * 63,
    }
    names = [config_map["metadata"]["name"] for config_map in render(both).of_kind("ConfigMap")]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 63


def test_dashboard_asks_the_chosen_prometheus_for_metrics_that_there_are(
    board: dict[str, Any],
) -> None:
    assert {variable["name"] for variable in board["templating"]["list"]} == VARIABLES
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 25
    for panel in panels:
        assert panel["targets"], panel["title"]
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            names = set(re.findall(r"\bmig_device_plugin_\w+", target["expr"]))
            assert names or "up{" in target["expr"] or "ALERTS{" in target["expr"]
            assert names <= KNOWN, panel["title"]
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= VARIABLES | {"__rate_interval"}
            assert "node" in used or "ALERTS" in target["expr"], (
                f"{panel['title']} forgets the chosen node"
            )


def test_panels_are_told_apart_and_lie_beside_each_other(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert (
        len({panel["id"] for panel in panels})
        == len({panel["title"] for panel in panels})
        == len(panels)
    )
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in panels) == 24
