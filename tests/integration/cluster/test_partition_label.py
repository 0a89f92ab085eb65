"""The node's label partitions it, and the state label and the annotation answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from plugin.core.partition.answer import ANNOTATION
from plugin.core.partition.comparison import document
from plugin.core.partition.configuration import Configuration, Entry, Wanted
from plugin.partitioning import MEMORY
from plugin.sim.apiserver.faults import WatchFault
from plugin.sim.hardware.calls import Fail
from plugin.sim.hardware.engine import parse_node

from .clock import virtual
from .partitioned import BALANCED, FLAG, LABEL, SMALL, STATE, partitioned
from .reported import granted, user_of
from .subject import NODE

MANAGER = "nvidia-mig-manager"


@virtual
async def test_the_walk_of_a_node_by_labels_alone(tmp_path: Path) -> None:
    async with partitioned(tmp_path, "8xa100-40gb:all-enabled") as subject, subject.running():
        subject.label("all-1g.5gb")
        await subject.ends("success", "all-1g.5gb")
        assert subject.devices() == [SMALL] * 8
        subject.label("all-balanced")
        await subject.ends("success", "all-balanced")
        assert subject.devices() == [BALANCED] * 8
        assert subject.answer == {
            "label": LABEL,
            "value": "all-balanced",
            "name": "all-balanced",
            "source": "label",
            "state": "success",
            "gpus": [{"index": index, "state": "applied"} for index in range(8)],
        }
        # Every run was pending first, and an end is written once.
        words = [body["metadata"].get("labels", {}).get(STATE) for body in subject.writes()]
        assert [word for word in words if word] == ["pending", "success"] * 2


@virtual
async def test_without_the_label_nothing_is_wanted_and_nothing_written(tmp_path: Path) -> None:
    async with partitioned(tmp_path, labels={STATE: "theirs"}) as subject:
        async with subject.running() as partitioning:
            await asyncio.sleep(60)
            subject.label("")
            await asyncio.sleep(60)
            assert partitioning.progress() is None
        assert subject.writes() == []
        assert subject.state == "theirs"
        assert subject.devices() == [{}, {}]


@virtual
async def test_ten_values_within_a_second_end_with_the_last(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject, subject.running():
        for _ in range(5):
            subject.label("all-1g.5gb")
            await asyncio.sleep(0.1)
            subject.label("all-balanced")
            await asyncio.sleep(0.1)
        await asyncio.sleep(60)
        await subject.ends("success", "all-balanced")
        assert subject.devices() == [BALANCED] * 2
        written = len(subject.writes())
        await asyncio.sleep(3600)
        assert (len(subject.writes()), subject.state) == (written, "success")


@virtual
async def test_an_unknown_name_is_answered_with_the_choices_and_changes_nothing(
    tmp_path: Path,
) -> None:
    async with partitioned(tmp_path) as subject, subject.running() as partitioning:
        subject.label("all-balanced")
        await subject.ends("success", "all-balanced")
        subject.label("all-balanecd")
        await subject.ends("failed", "all-balanecd")
        reason = subject.answer["reason"]
        assert reason["code"] == "unknown-configuration"
        assert "did you mean all-balanced? The choices are all-1g.10gb" in reason["text"]
        progress = partitioning.progress()
        assert progress is not None
        assert progress.configuration == "all-balanced"
        await asyncio.sleep(600)
        assert subject.devices() == [BALANCED] * 2
        assert subject.state == "failed"
        subject.label("all-balanced")
        await subject.ends("success", "all-balanced")


@virtual
async def test_an_outage_in_the_middle_ends_right(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject, subject.running() as partitioning:
        subject.label("all-1g.5gb")
        await partitioning.progressed(None)
        await subject.server.away()
        await subject.becomes(lambda: subject.devices() == [SMALL] * 2)
        assert subject.state != "success"
        subject.label("all-balanced")
        await asyncio.sleep(600)
        await subject.server.back()
        await subject.ends("success", "all-balanced")
        assert subject.devices() == [BALANCED] * 2


@virtual
async def test_a_watch_whose_version_expired_finds_what_it_missed(tmp_path: Path) -> None:
    for fault in (WatchFault.EXPIRED, WatchFault.END):
        async with partitioned(tmp_path) as subject, subject.running():
            subject.label("all-1g.5gb")
            await subject.ends("success", "all-1g.5gb")
            assert subject.server.disturb_watches(fault)
            subject.label("all-balanced")
            await subject.ends("success", "all-balanced")


@virtual
async def test_a_state_that_another_program_writes_is_written_again_but_not_fought_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with partitioned(tmp_path) as subject, subject.running():
        subject.label("all-1g.5gb")
        await subject.ends("success", "all-1g.5gb")
        subject.change(STATE, "failed")
        await subject.becomes(lambda: subject.state == "success", seconds=1)
        assert subject.reporter is not None
        assert subject.reporter.status().problems == ()  # once is no quarrel
        before = len(subject.writes())
        for _ in range(600):
            subject.change(STATE, "failed", MANAGER)
            await asyncio.sleep(1)
        assert len(subject.writes()) - before < 15
        (problem,) = subject.reporter.status().problems
        assert problem.startswith(f"{MANAGER} keeps writing the label {STATE}")
        warned = [each for each in caplog.records if each.message.startswith("another program")]
        assert {vars(each)["by"] for each in warned} == {"kubectl-label", MANAGER}
        await subject.ends("success", "all-1g.5gb")
        assert subject.reporter.status().problems == ()
        subject.label("all-balanced")
        await subject.ends("success", "all-balanced")


@virtual
async def test_a_restart_answers_anew_and_changes_nothing(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running():
            await subject.ends("success", "all-1g.5gb")
        subject.change(STATE, "pending")  # as a process that was killed leaves it
        made = [slot.ci.uuid for slot in subject.hardware.gpu(0).devices()]
        async with subject.running():
            await subject.ends("success", "all-1g.5gb")
        assert [slot.ci.uuid for slot in subject.hardware.gpu(0).devices()] == made


@virtual
async def test_the_label_is_applied_at_the_start_without_the_api_server(tmp_path: Path) -> None:
    """A reboot loses the instances."""
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running():
            await subject.ends("success", "all-1g.5gb")
        subject.hardware = parse_node("2xa100-40gb:all-enabled")
        await subject.server.away()
        async with subject.running():
            await subject.becomes(lambda: subject.devices() == [SMALL] * 2)
        await subject.server.back()


@virtual
async def test_a_command_after_the_label_holds_across_restarts(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running() as partitioning:
            await subject.ends("success", "all-1g.5gb")
            await partitioning.perform(["apply", "all-balanced", "", ""])
            await subject.becomes(lambda: subject.answer["source"] == "command")
            await subject.becomes(lambda: subject.answer["state"] == "success")
            assert subject.state is None  # the label is not what is applied
        async with subject.running():
            await asyncio.sleep(60)
            assert subject.devices() == [BALANCED] * 2
            subject.label("all-enabled")
            await subject.ends("success", "all-enabled")
        async with subject.running() as partitioning:
            await partitioning.perform(["cancel"])
            await subject.becomes(lambda: subject.answer == {})
            assert subject.state is None
        assert subject.devices() == [{}, {}]


@virtual
async def test_what_the_label_said_is_known_without_the_node(tmp_path: Path) -> None:
    """Whoever removes the annotation, or has the label's order cancelled, is not overruled."""
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running() as partitioning:
            await subject.ends("success", "all-1g.5gb")
            await partitioning.perform(["apply", "all-balanced", "", ""])
            await subject.becomes(lambda: subject.devices() == [BALANCED] * 2)
        subject.server.change("nodes", NODE, {"metadata": {"annotations": {ANNOTATION: None}}})
        async with subject.running() as partitioning:
            await asyncio.sleep(60)
            assert subject.devices() == [BALANCED] * 2
            await partitioning.perform(["cancel"])
            await subject.becomes(lambda: subject.answer == {})
        async with subject.running():
            await asyncio.sleep(60)
            assert subject.devices() == [BALANCED] * 2
            # Removed and set again, it counts again.
            await subject.unlabel()
            subject.label("all-1g.5gb")
            await subject.ends("success", "all-1g.5gb")
            assert subject.devices() == [SMALL] * 2


@virtual
@pytest.mark.parametrize("between", [None, "typo"], ids=["removed", "mistyped"])
async def test_after_a_failure_the_same_value_is_an_order_again(
    tmp_path: Path, between: str | None
) -> None:
    create = "nvmlDeviceCreateGpuInstanceWithPlacement"
    async with partitioned(tmp_path, "2xa100-40gb:all-balanced") as subject, subject.running():
        subject.hardware.calls.inject(create, Fail(pynvml.NVML_ERROR_UNKNOWN))
        subject.label("all-1g.5gb")
        await subject.ends("failed", "all-1g.5gb")
        subject.hardware.calls.restore()
        subject.label("all-1g.5gb")  # not another one
        await asyncio.sleep(3600)
        assert subject.state == "failed"
        if between is None:
            await subject.unlabel()
        else:
            subject.label(between)
            await subject.becomes(lambda: subject.answer["value"] is None)
        subject.label("all-1g.5gb")
        await subject.ends("success", "all-1g.5gb")
        assert subject.devices() == [SMALL] * 2


@virtual
async def test_files_that_somebody_removes_are_written_again(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running():
            await subject.ends("success", "all-1g.5gb")
            for name in (MEMORY, f"{MEMORY}.lock"):
                (tmp_path / name).unlink()
            await subject.becomes((tmp_path / MEMORY).exists)
            assert (subject.state, subject.answer["source"]) == ("success", "label")
        subject.hardware.configure("all-balanced")  # as after a reboot
        async with subject.running():
            await subject.becomes(lambda: subject.devices() == [SMALL] * 2)
            assert subject.answer["value"] == "all-1g.5gb"


@virtual
async def test_another_option_does_not_count_while_there_is_the_label(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running():
            await subject.ends("success", "all-1g.5gb")
        made = [slot.ci.uuid for slot in subject.hardware.gpu(0).devices()]
        subject.settings = replace(subject.settings, partition_config="all-balanced")
        async with subject.running():
            await asyncio.sleep(60)
            assert [slot.ci.uuid for slot in subject.hardware.gpu(0).devices()] == made
            assert (subject.state, subject.answer["name"]) == ("success", "all-1g.5gb")
            await subject.unlabel()
            assert subject.devices() == [SMALL] * 2
        async with subject.running():
            await subject.becomes(lambda: subject.devices() == [BALANCED] * 2)


@virtual
async def test_a_command_holds_over_a_value_that_was_refused_before(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text(json.dumps(document([Configuration("mine", (Entry(Wanted(mig=True)),))])))
    async with partitioned(tmp_path) as subject:
        subject.settings = replace(subject.settings, partition_file=str(file))
        async with subject.running() as partitioning:
            subject.label("later")
            await subject.ends("failed", "later")
            await partitioning.perform(["apply", "all-balanced", "", ""])
            await subject.becomes(lambda: subject.devices() == [BALANCED] * 2)
            file.write_text(file.read_text().replace("mine", "later"))
            await asyncio.sleep(300)
            assert subject.devices() == [BALANCED] * 2


@virtual
async def test_a_node_that_is_deleted_says_nothing(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject, subject.running():
        subject.label("all-1g.5gb")
        await subject.ends("success", "all-1g.5gb")
        subject.server.storage.remove("nodes", "", NODE)
        await asyncio.sleep(60)
        assert subject.devices() == [SMALL] * 2
        subject.server.add_node(NODE, labels={LABEL: "all-balanced"})
        await subject.ends("success", "all-balanced")


@virtual
async def test_a_reset_that_nobody_ordered_is_an_end(tmp_path: Path) -> None:
    async with partitioned(tmp_path, "1xa100-40gb") as subject, subject.running():
        subject.label("all-1g.5gb")
        await subject.ends("failed", "all-1g.5gb")
        assert subject.answer["state"] == "reset-needed"
        (gpu,) = subject.answer["gpus"]
        assert (gpu["state"], gpu["reason"]["code"]) == ("reset-needed", "reset-needed")


@virtual
async def test_switched_off_the_answers_are_removed_and_the_devices_stay(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject:
        subject.label("all-1g.5gb")
        async with subject.running():
            await subject.ends("success", "all-1g.5gb")
        other = "example.com/partition"
        subject.settings = replace(subject.settings, partition_label=other)
        async with subject.running():
            await subject.becomes(lambda: subject.state is None)
            await subject.becomes(lambda: subject.answer.get("label") == other)
        subject.settings = replace(subject.settings, partition_label="")
        async with subject.running():
            await subject.becomes(lambda: not (tmp_path / "cluster-features").exists())
        assert subject.answer == {}
        labels = subject.server.node(NODE)["metadata"]["labels"]
        assert [key for key in labels if key.endswith(".state")] == []
        assert labels[LABEL] == "all-1g.5gb"
        assert subject.devices() == [SMALL] * 2


@virtual
async def test_the_rules_are_those_that_are_used(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject, subject.running():
        subject.label("all-1g.5gb")
        await subject.ends("success", "all-1g.5gb")
        await asyncio.sleep(3600)
        used = {
            (each.asked.group, each.asked.resource, each.asked.verb)
            for each in subject.server.journal.requests
        }
        assert used == granted(FLAG)
        assert {each.status for each in subject.server.journal.requests} <= {0, 200}


@virtual
async def test_without_the_right_it_is_applied_all_the_same_and_said(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as subject:
        subject.server.users.clear()
        subject.server.users.update(user_of())
        async with subject.running():
            subject.label("all-1g.5gb")
            await subject.becomes(lambda: subject.devices() == [SMALL] * 2)
            await asyncio.sleep(60)
            assert subject.reporter is not None
            (problem,) = subject.reporter.status().problems
            assert problem.startswith("the state of partitioning: patch nodes")
