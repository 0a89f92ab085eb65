"""The chart's alerts in promtool: each fires on its condition and resolves after it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from plugin.web.metrics.scrape import FAMILIES

from .alert_stories import STORIES, Story

if TYPE_CHECKING:
    from .conftest import Manifest, Renderer, Values

PROMTOOL = shutil.which("promtool")
#: Only what runs promtool.
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="needs promtool (Debian's package prometheus)"
)
PREFIX = "mig_device_plugin_"
METRIC = re.compile(rf"\b(?:{PREFIX}\w+|up(?=\{{)|kube_\w+)")
#: Of Prometheus itself and of kube-state-metrics.
FOREIGN = {
    "up",
    "kube_daemonset_status_desired_number_scheduled",
    "kube_daemonset_status_number_available",
}


def rules(render: "Renderer", values: "Values | None" = None) -> "list[Manifest]":
    (manifest,) = render({"prometheusRule": {"enabled": True, **(values or {})}}).of_kind(
        "PrometheusRule"
    )
    (group,) = manifest["spec"]["groups"]
    found: list[Manifest] = group["rules"]
    return found


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(folder: Path, found: "list[Manifest]") -> Path:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "mig-device-plugin", "rules": found}]}))
    return path


@needs_promtool
def test_promtool_finds_nothing_to_complain_about(render: "Renderer", tmp_path: Path) -> None:
    found = rules(render)
    output = promtool("check", "rules", "--lint=all", "--lint-fatal", written(tmp_path, found))
    assert f"SUCCESS: {len(found)} rules found" in output


@needs_promtool
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.alert)
def test_alert_fires_and_resolves(render: "Renderer", tmp_path: Path, story: Story) -> None:
    found = rules(render, story.values)
    (rule,) = (rule for rule in found if rule["alert"] == story.alert)
    for each in found:
        del each["annotations"]["description"]  # promtool compares every annotation
    expected = {
        "exp_labels": story.labels | rule["labels"],
        "exp_annotations": {"summary": story.summary},
    }
    written(tmp_path, found)
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": metric
                        + "{"
                        + ",".join(f"{k}={json.dumps(v)}" for k, v in labels.items())
                        + "}",
                        "values": values,
                    }
                    for metric, labels, values in story.series
                ],
                "alert_rule_test": [
                    {
                        "eval_time": f"{minute}m",
                        "alertname": story.alert,
                        "exp_alerts": [expected] if minute == story.fires else [],
                    }
                    for minute in (story.fires, *story.quiet)
                ],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    promtool("test", "rules", path)


def test_every_alert_has_its_story(render: "Renderer") -> None:
    assert [rule["alert"] for rule in rules(render)] == list(
        dict.fromkeys(story.alert for story in STORIES)
    )
    for story in STORIES:
        assert min(story.quiet) < story.fires < max(story.quiet), "before, during and after"
        assert len(story.summary) < 100, "one line in a chat"


def test_every_alert_says_what_to_do(render: "Renderer") -> None:
    for rule in rules(render):
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        description = rule["annotations"]["description"]
        assert len(description) > 80
        assert not any(
            word in rule["expr"] + description
            for word in ("RELEASE_", "DAEMONSET_", "STORM_", "HANG_")
        )
        assert "runbook_url" not in rule["annotations"]


def test_every_alert_is_in_the_readme(render: "Renderer", chart_path: Path) -> None:
    readme = (chart_path / "README.md").read_text()
    for rule in rules(render):
        row = f"| `{rule['alert']}` | {rule['labels']['severity']}, {rule['for']} |"
        assert row in readme


def test_alerts_can_be_changed_one_by_one(render: "Renderer") -> None:
    changed = {
        "runbookUrl": "https://wiki.example/mig",
        "alertLabels": {"team": "gpu"},
        "driverHangSeconds": 90,
        "alerts": {
            "MigDeviceDown": {"for": "42m", "severity": "page"},
            "MigPluginAbsent": {"enabled": False},
            "MigGpuDown": {"enabled": True},
        },
    }
    before = {rule["alert"]: rule for rule in rules(render)}
    after = {rule["alert"]: rule for rule in rules(render, changed)}
    assert before.keys() - after.keys() == {"MigPluginAbsent"}
    assert (after["MigDeviceDown"]["for"], after["MigDeviceDown"]["labels"]["severity"]) == (
        "42m",
        "page",
    )
    assert after["MigGpuDown"]["for"] == before["MigGpuDown"]["for"]
    assert after["MigDriverNotAnswering"]["expr"].endswith("> 90")
    for name, rule in after.items():
        assert rule["labels"]["team"] == "gpu"
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/mig#{name.lower()}"


def test_alerts_ask_for_metrics_that_the_daemon_has(render: "Renderer") -> None:
    known = {family.name for family in FAMILIES} | FOREIGN
    for rule in rules(render):
        asked = set(METRIC.findall(rule["expr"]))
        assert asked
        assert asked <= known
