"""Labels of the own Node: ours, and only ours."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace

from plugin.core import state as steps
from plugin.core.labels.ownership import RECORD
from plugin.core.settings import MigStrategy, Settings
from plugin.sim.hardware.engine import parse_node
from tests.simulated import scan
from tests.unit.builders import gpu, mig_device, mig_gpu, node
from tests.unit.state_steps import ON_LEFT, running, scanned

from .clock import virtual
from .reported import TOKEN, Reported, configured, reported, user_of
from .subject import NODE

GFD = Path(__file__).resolve().parents[2] / "unit" / "gfd"
ON = Settings(mig_strategy=MigStrategy.MIXED, node_labels=True)
ONE, THREE = "nvidia.com/mig-1g.5gb.count", "nvidia.com/mig-3g.20gb.count"
OTHER = node(gpu(0, mig_device(0, 4, "3g.20gb")), mig_gpu(1, "1g.5gb"))
NFD = "nfd.node.kubernetes.io/feature-labels"
#: Labels of others in the same domain.
FOREIGN = {"nvidia.com/mig.config": "all-1g.5gb", "nvidia.com/gpu.deploy.driver": "true"}


def writes(subject: Reported) -> int:
    return len(subject.server.journal.of("patch"))


async def settled(subject: Reported) -> None:
    await subject.becomes(lambda: subject.labels().get(ONE))


@pytest.mark.parametrize(
    ("recording", "simulated", "strategy"),
    [
        ("p4d-all-1g.5gb-single", "p4d.24xlarge:all-1g.5gb", MigStrategy.SINGLE),
        ("p4d-all-balanced-mixed", "p4d.24xlarge:all-balanced", MigStrategy.MIXED),
        ("p4d-mig-off-none", "p4d.24xlarge", MigStrategy.NONE),
    ],
)
def test_they_are_those_of_gpu_feature_discovery(
    tmp_path: Path, recording: str, simulated: str, strategy: MigStrategy
) -> None:
    lines = (GFD / f"{recording}.txt").read_text(encoding="utf-8").splitlines()
    recorded = {key: value for key, _, value in (line.partition("=") for line in lines)}
    driver = "580.65.06"  # of the node where it was recorded
    inventory = replace(scan(parse_node(simulated)), driver_version=driver)
    state = running(dataclasses.replace(ON, mig_strategy=strategy), inventory)

    @virtual
    async def report() -> None:
        async with reported(tmp_path, state) as subject, subject.running():
            await subject.becomes(subject.labels)
            assert subject.labels() == recorded
            assert subject.status.labels == len(recorded)
            assert (writes(subject), subject.status.problems) == (1, ())

    report()


@virtual
async def test_a_change_writes_what_differs_and_health_nothing(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON), labels=FOREIGN) as subject, subject.running():
        await settled(subject)
        before = dict(subject.labels())
        subject.take(steps.happened(subject.state, [ON_LEFT], 1.0))
        await asyncio.sleep(60)
        assert writes(subject) == 1
        began = asyncio.get_running_loop().time()
        subject.take(scanned(subject.state, OTHER))
        subject.take(scanned(subject.state, OTHER))  # an absence is believed when it is seen again
        await subject.becomes(lambda: subject.labels().get(THREE) == "1")
        assert asyncio.get_running_loop().time() - began < 1.0
        sent = subject.server.journal.of("patch")[-1].body["metadata"]["labels"]
        now = dict(subject.labels())
        assert set(sent) == {key for key in before | now if before.get(key) != now.get(key)}
        assert FOREIGN.items() <= now.items()


@virtual
async def test_a_restart_writes_nothing_and_an_upgrade_removes_former_keys(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON), labels=FOREIGN) as subject:
        async with subject.running():
            await settled(subject)
        async with subject.running():
            await asyncio.sleep(60)
            assert writes(subject) == 1
        record = subject.annotations()[RECORD]
        # A former version wrote one more; an administrator's edit names what was never ours.
        former = {"nvidia.com/gpu.engines.former": "x"}
        names = f"{record},gpu.engines.former,mig.config,gpu.deploy.driver"
        change = {"metadata": {"labels": former, "annotations": {RECORD: names}}}
        subject.server.change("nodes", NODE, change)
        async with subject.running():
            await subject.becomes(lambda: subject.annotations()[RECORD] == record)
        assert former.keys().isdisjoint(subject.labels())
        assert FOREIGN.items() <= subject.labels().items()


@virtual
async def test_switched_off_ours_are_removed_and_no_others(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON), labels=FOREIGN) as subject:
        async with subject.running():
            await settled(subject)
        assert (tmp_path / "cluster-features").exists()
        configured(subject, node_labels=False)
        async with subject.running():
            await subject.becomes(lambda: not (tmp_path / "cluster-features").exists())
        assert subject.labels() == FOREIGN
        assert RECORD not in subject.annotations()


@virtual
async def test_labels_of_node_feature_discovery_are_left_to_it(tmp_path: Path) -> None:
    theirs = {"nvidia.com/gpu.count": "99", "nvidia.com/gpu.product": "theirs"}
    notes = {NFD: "cpu-model.family,nvidia.com/gpu.count,nvidia.com/gpu.product"}
    making = reported(tmp_path, running(ON), labels=theirs, annotations=notes)
    async with making as subject, subject.running():
        await settled(subject)
        assert theirs.items() <= subject.labels().items()
        (problem,) = subject.status.problems
        assert problem.startswith("Node Feature Discovery writes 2 of the node's labels")
        # It is switched off: its labels go, and ours come.
        gone: dict[str, str | None] = dict.fromkeys(theirs)
        change = {"metadata": {"labels": gone, "annotations": {NFD: "cpu-model.family"}}}
        subject.server.change("nodes", NODE, change)
        await subject.becomes(lambda: subject.labels().get("nvidia.com/gpu.count") == "2")
        assert subject.status.problems == ()


@virtual
async def test_a_label_that_somebody_changes_is_written_again_but_not_fought_for(
    tmp_path: Path,
) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await settled(subject)
        subject.server.change("nodes", NODE, {"metadata": {"labels": {ONE: "7"}}})
        await subject.becomes(lambda: subject.labels()[ONE] == "3", seconds=1)
        for _ in range(600):
            subject.server.change("nodes", NODE, {"metadata": {"labels": {ONE: "7"}}})
            await asyncio.sleep(1)
        assert writes(subject) < 15
        await subject.becomes(lambda: subject.labels()[ONE] == "3")


@virtual
async def test_a_disputed_label_holds_up_no_other(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await settled(subject)
        theirs = {"metadata": {"labels": {"nvidia.com/gpu.machine": "theirs"}}}

        async def dispute() -> None:
            while True:
                subject.server.change("nodes", NODE, theirs)
                await asyncio.sleep(1)

        other = asyncio.create_task(dispute())
        await asyncio.sleep(600)  # the pauses are minutes now
        began = asyncio.get_running_loop().time()
        subject.take(scanned(subject.state, OTHER))
        subject.take(scanned(subject.state, OTHER))
        await subject.becomes(lambda: subject.labels().get(THREE) == "1")
        assert asyncio.get_running_loop().time() - began < 1.0
        assert subject.labels()["nvidia.com/gpu.machine"] == "theirs"
        other.cancel()
        await subject.becomes(lambda: subject.labels()["nvidia.com/gpu.machine"] != "theirs")


@virtual
async def test_a_node_that_is_made_anew_gets_them_again(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject, subject.running():
        await settled(subject)
        subject.server.storage.remove("nodes", "", NODE)
        await asyncio.sleep(60)
        (problem,) = subject.status.problems
        assert problem.startswith(f"the cluster has no Node {NODE}")
        subject.server.add_node(NODE)
        await settled(subject)
        assert subject.status.problems == ()


@virtual
async def test_without_the_right_it_is_said_and_comes_with_it(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON), rights=()) as subject, subject.running():
        await subject.becomes(lambda: subject.status.problems)
        (problem,) = subject.status.problems
        assert problem.startswith("node labels: patch nodes")
        assert "403 Forbidden" in problem
        assert "ClusterRole" in problem
        await asyncio.sleep(3600)
        assert writes(subject) < 60
        configured(subject)
        await settled(subject)
        assert subject.status.problems == ()


@virtual
async def test_the_note_of_a_refusal_ends_when_nothing_is_to_be_written_any_more(
    tmp_path: Path,
) -> None:
    async with reported(tmp_path, running(ON), rights=()) as subject, subject.running():
        await subject.becomes(lambda: subject.status.problems)
        # Somebody else writes what was wanted.
        refused = subject.server.journal.of("patch")[-1]
        subject.server.change("nodes", NODE, refused.body)
        await subject.becomes(lambda: not subject.status.problems, seconds=600)
        assert {each.status for each in subject.server.journal.of("patch")} == {403}


@virtual
async def test_a_node_that_must_not_be_watched_is_said(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject:
        subject.server.users[TOKEN] = replace(subject.server.users[TOKEN], rules=[])
        async with subject.running():
            await subject.becomes(lambda: subject.status.problems)
            (problem,) = subject.status.problems
            assert problem.startswith("the Node cannot be followed: list nodes")
            assert "ClusterRole" in problem
            subject.server.users.update(user_of("--node-labels"))
            await settled(subject)
        assert subject.status.problems == ()


@virtual
async def test_without_a_token_it_is_said_and_comes_with_it(tmp_path: Path) -> None:
    async with reported(tmp_path, running(ON)) as subject:
        token = tmp_path / "token"
        path = tmp_path / "kubeconfig"
        path.write_text(path.read_text().replace(f'"token": "{TOKEN}"', '"tokenFile": "token"'))
        async with subject.running():
            await subject.becomes(lambda: subject.status.away_since)
            await asyncio.sleep(600)
            assert subject.requests() == 0
            reason = f"{token} cannot be read: No such file or directory"
            assert reason in subject.status.away_because
            token.write_text(TOKEN)
            await settled(subject)
            assert subject.status.away_because == ""
        assert subject.status.problems == ()
