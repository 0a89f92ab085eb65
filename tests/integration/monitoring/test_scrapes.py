"""Scrapes by a real Prometheus, and every query of the chart's dashboard."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from plugin.sim.kubelet.pods import Pod
from tests.integration.prometheus import PROMETHEUS, Prometheus, fetch

from .release import MONITORING, ONE, PLUGIN_POD, THREE, Watched, render

#: Queries with nothing to show on this node: rows that wait or failed, and what no card says in MIG
#: mode.
NOTHING_TO_SHOW = {
    "Remapped memory rows B",
    "Remapped memory rows C",
    "Utilisation of whole cards A",
}

#: As the last GPU is by then.
WANTED = {
    "version": "v1",
    "mig-configs": {
        "as-it-is": [{"devices": [7], "mig-enabled": True, "mig-devices": {"1g.10gb": 3}}]
    },
}

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus (Debian's package prometheus)"),
]


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
    await watched.tell("partition", "apply", "", json.dumps(WANTED), "")
    await prometheus.holds('sum(mig_device_plugin_devices{state="unhealthy"}) == 1 + 4 + 4')
    await prometheus.holds('sum(mig_device_plugin_devices{state="healthy"}) == 31 - 1 - 4 - 4')
    await prometheus.holds('ALERTS{alertname=~"Mig.*", alertstate="firing"}')
    await prometheus.holds('mig_device_plugin_device_processes{pod=""} > 0')
    await prometheus.holds("changes(mig_device_plugin_geometry_generation[1m]) > 0")
    await prometheus.holds('mig_device_plugin_partition_state{state="success"}')
    await prometheus.holds("rate(mig_device_plugin_partition_steps_total[1m])")

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
