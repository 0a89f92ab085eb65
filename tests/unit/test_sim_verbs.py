"""What can be done to a simulated node by words, and how mistakes are answered."""

from __future__ import annotations

import re
import threading

import pytest

from plugin.cli import main
from plugin.core.health.events import DriverEvent, EventKind
from plugin.core.inventory.model import Inventory
from plugin.errors import DriverUnavailable, SimulationError
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.hardware.events import EventQueue
from plugin.sim.hardware.gpu import Work
from plugin.sim.verbs import VERBS, perform
from tests.simulated import scan, truth

ALL_KINDS = sum(kind.value for kind in EventKind)


@pytest.fixture
def node() -> SimNode:
    return parse_node("2xa100-40gb:0=3g.20gb,1g.5gb*2")


@pytest.fixture
def queue(node: SimNode) -> EventQueue:
    made = node.open_queue()
    for gpu in node.gpus:
        made.register(gpu.uuid, ALL_KINDS)
    return made


def events(queue: EventQueue) -> list[DriverEvent]:
    found = []
    while (event := queue.wait(0)) is not None:
        found.append(event)
    return found


def profiles(node: SimNode) -> list[list[str]]:
    return [[slot.gi.profile.name for slot in gpu.devices()] for gpu in node.gpus]


@pytest.mark.parametrize("form", ["index", "instances", "uuid"])
def test_an_xid_of_a_mig_device_names_its_instances(
    node: SimNode, queue: EventQueue, form: str
) -> None:
    gpu = node.gpu(0)
    slot = list(gpu.devices())[1]
    target = {"index": "0:1", "instances": f"0/{slot.gi.id}/{slot.ci.id}", "uuid": slot.ci.uuid}[
        form
    ]
    assert slot.ci.uuid in perform(node, "xid", [target, "95"])
    assert events(queue) == [DriverEvent(EventKind.XID, gpu.uuid, slot.gi.id, slot.ci.id, 95)]


def test_an_xid_of_a_gpu_instance(node: SimNode, queue: EventQueue) -> None:
    gi = next(node.gpu(0).devices()).gi.id
    perform(node, "xid", [f"0/{gi}", "13"])
    assert events(queue) == [DriverEvent(EventKind.XID, node.gpu(0).uuid, gi, None, 13)]


@pytest.mark.parametrize("form", ["index", "uuid"])
def test_a_fatal_xid_of_a_gpu_raises_its_recovery_action(
    node: SimNode, queue: EventQueue, form: str
) -> None:
    gpu = node.gpu(1)
    perform(node, "xid", [{"index": "1", "uuid": gpu.uuid}[form], "109"])
    kinds = [(event.kind, event.data) for event in events(queue)]
    assert kinds == [(EventKind.XID, 109), (EventKind.XID, 154), (EventKind.RECOVERY_ACTION, 0)]
    assert node.gpu(1).recovery_action == 1


@pytest.mark.parametrize(
    ("word", "number"), [("reset", 1), ("none", 0), ("drain-and-reset", 4), ("2", 2)]
)
def test_recovery_action(node: SimNode, word: str, number: int) -> None:
    node.set_recovery_action(1, 3)
    perform(node, "recovery", ["1", word])
    assert node.gpu(1).recovery_action == number


def test_ecc(node: SimNode, queue: EventQueue) -> None:
    perform(node, "ecc", ["0"])
    perform(node, "ecc", ["1", "--double-bit"])
    assert [event.kind for event in events(queue)] == [
        EventKind.SINGLE_BIT_ECC,
        EventKind.DOUBLE_BIT_ECC,
    ]
    assert node.gpu(1).wear.double_bit_ecc == 1


def test_a_gpu_is_lost_and_restored_and_reset(node: SimNode) -> None:
    perform(node, "lose", ["0"])
    assert node.gpu(0).lost
    perform(node, "restore", ["0"])
    assert not node.gpu(0).lost
    assert profiles(node)[0] != []
    perform(node, "reset", ["0"])
    assert profiles(node)[0] == []


def test_a_repartition_changes_only_the_gpus_that_it_names(node: SimNode) -> None:
    before = [slot.ci.uuid for slot in node.gpu(0).devices()]
    assert "changed GPU 1;" in perform(node, "repartition", ["1=2g.10gb*2"])
    assert [slot.ci.uuid for slot in node.gpu(0).devices()] == before
    assert profiles(node)[1] == ["2g.10gb", "2g.10gb"]
    perform(node, "repartition", ["0=off"])
    assert profiles(node) == [[], ["2g.10gb", "2g.10gb"]]
    assert not node.gpu(0).mig


def test_a_repartition_in_words_is_for_the_whole_node(node: SimNode) -> None:
    assert "14 MIG devices" in perform(node, "repartition", ["all-1g.5gb"])
    assert "nothing to change" in perform(node, "repartition", ["all-1g.5gb"])
    perform(node, "repartition", ["mig-off"])
    assert profiles(node) == [[], []]


def test_a_repartition_names_what_blocks_it_and_changes_nothing(node: SimNode) -> None:
    before = profiles(node)
    uuid = next(node.gpu(0).devices()).ci.uuid
    perform(node, "hold", ["0:0", "4711"])
    with pytest.raises(SimulationError, match=f"GPU 0 while process 4711 holds {uuid}"):
        perform(node, "repartition", ["0-1=1g.5gb*7"])
    assert profiles(node) == before
    perform(node, "release", ["0:0"])
    perform(node, "repartition", ["0-1=1g.5gb*7"])
    assert profiles(node) == [["1g.5gb"] * 7] * 2


def test_processes_differ_in_what_they_do(node: SimNode) -> None:
    uuid = node.gpu(1).uuid
    assert perform(node, "hold", ["1", "7", "watch"]) == f"process 7 watches GPU 1 ({uuid})"
    perform(node, "hold", ["1", "8", "graphics"])
    perform(node, "hold", ["1", "9"])
    works = {process.pid: process.work for process in node.processes(uuid)}
    assert works == {7: Work.WATCH, 8: Work.GRAPHICS, 9: Work.COMPUTE}
    assert "process 8 holds GPU 1" in perform(node, "release", ["1", "8"])
    assert {process.pid for process in node.processes(uuid)} == {7, 9}
    perform(node, "release", ["1"])
    assert node.processes(uuid) == ()


def test_gpus_come_and_go(node: SimNode) -> None:
    gone = node.gpu(0).uuid
    perform(node, "unplug", ["0"])
    assert len(node.gpus) == 1
    perform(node, "lose", ["0"])  # as NVML counts now: what was GPU 1
    assert node.gpu(1).lost
    perform(node, "plug", ["0"])
    assert next(gpu.uuid for gpu in node.gpus) == gone
    perform(node, "plug", ["t4-16gb"])
    assert [gpu.card.key for gpu in node.gpus] == ["a100-40gb", "a100-40gb", "t4-16gb"]


def test_the_driver_goes_and_comes(node: SimNode) -> None:
    perform(node, "unload", [])
    with pytest.raises(DriverUnavailable):
        scan(node)
    perform(node, "load", [])
    assert len(scan(node).gpus) == 2
    perform(node, "hang", [])
    perform(node, "unhang", [])
    assert len(scan(node).gpus) == 2


def test_files_go_and_come(node: SimNode) -> None:
    perform(node, "remove-node", ["/dev/nvidia1"])
    assert scan(node).gpus[1].missing_device_nodes == ("/dev/nvidia1",)
    perform(node, "restore-node", ["/dev/nvidia1"])
    assert scan(node).gpus[1].missing_device_nodes == ()


def read_name(node: SimNode, index: int) -> str:
    return scan(node).gpus[index].product


def test_a_function_fails_for_one_gpu_until_it_answers_again(node: SimNode) -> None:
    said = perform(node, "fail", ["nvmlDeviceGetName", "no-permission", "always", "1"])
    assert said == f"nvmlDeviceGetName answers 4 always for GPU 1 ({node.gpu(1).uuid})"
    for _ in range(2):
        assert [read_name(node, index) == "" for index in (0, 1)] == [False, True]
    perform(node, "unfail", ["nvmlDeviceGetName"])
    assert read_name(node, 1)


def test_a_function_fails_once_and_all_are_restored_together(node: SimNode) -> None:
    perform(node, "fail", ["nvmlDeviceGetMigMode", "999", "once"])
    assert [gpu.mig_certain for gpu in scan(node).gpus] == [False, True]
    assert [gpu.mig_certain for gpu in scan(node).gpus] == [True, True]
    perform(node, "fail", ["nvmlDeviceGetMigMode", "3"])
    perform(node, "fail", ["nvmlDeviceGetUUID", "15", "0"])
    perform(node, "unfail", [])
    assert scan(node).gpus == truth(node)


def test_one_function_hangs_for_one_gpu(node: SimNode) -> None:
    perform(node, "hang", ["nvmlDeviceGetName", "1"])
    found: list[Inventory] = []
    reader = threading.Thread(target=lambda: found.append(scan(node)), daemon=True)
    reader.start()
    assert node.calls.wait_hanging("nvmlDeviceGetName", 10)
    perform(node, "fail", ["nvmlDeviceGetCudaComputeCapability", "3", "always", "0"])
    perform(node, "unhang", [])
    reader.join(10)
    assert found[0].gpus == truth(node)
    assert node.calls.broken() == {"nvmlDeviceGetCudaComputeCapability"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("explode 0", "unknown sim command 'explode'; choose xid, recovery, ecc"),
        ("xid 0", "sim xid takes TARGET XID, not 0"),
        ("unhang 0", "sim unhang takes no arguments, not 0"),
        ("hang 0", "the simulated library has no function '0'"),
        ("hang nvmlDeviceGetUUID 7", "nothing on this node is called '7'"),
        ("fail nvmlDeviceGetUIUD 3", "did you mean nvmlDeviceGetUUID"),
        ("fail nvmlDeviceGetUUID 0", "'0' is no code; give a number from 1 to 999 or uninit"),
        ("fail nvmlDeviceGetUUID 3 twice 0", "'twice' is neither once nor always"),
        ("unfail nvmlDeviceGetUUID", "has no fault; functions with faults: none"),
        (
            "xid 7 79",
            (
                "nothing on this node is called '7'; choose a UUID or GPU 0, 1; a part of one is "
                "written like"
            ),
        ),
        ("xid 0:9 79", "nothing on this node is called '0:9'"),
        ("xid 0 many", "'many' is no XID"),
        ("xid 0 0", "'0' is no XID"),
        ("recovery 0 pray", "unknown recovery action 'pray'; choose none, reset, reboot"),
        ("recovery 0 9", "unknown recovery action '9'"),
        ("lose 0:0", "0:0 is a part of a GPU; name a whole GPU"),
        ("restore 0", "is not lost"),
        ("ecc --double-bit", "sim ecc takes GPU"),
        ("repartition sideways", "unknown geometry 'sideways'; choices: mig-off"),
        ("repartition 0=1g.5gb*8", "1g.5gb*8 cannot be placed on GPU 0"),
        ("repartition 5=off", "its GPUs are 0-1"),
        ("plug h9000", "'h9000' is neither a slot nor a card; cards: a100-40gb"),
        ("plug 0", "which was not removed"),
        ("hold 0 me", "'me' is no process id"),
        ("hold 0 1 sleep", "'sleep' is nothing a process does; choose compute, graphics, mps"),
        ("release 0 1", "process 1 does not hold GPU 0"),
        ("remove-node dev/nvidia0", "is no absolute path"),
        ("restore-node /dev/nvidia0", "was not removed; removed nodes: none"),
    ],
)
def test_mistakes_are_one_line_that_names_the_choices(node: SimNode, line: str, words: str) -> None:
    verb, *arguments = line.split()
    with pytest.raises(SimulationError) as refused:
        perform(node, verb, arguments)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_line_knows_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sim", "no-such-verb"])
    choices = capsys.readouterr().err.partition("choose from ")[2]
    found = re.findall(r"[a-z][a-z-]+", choices)
    found.remove("label")  # which is about the Node, not about its hardware
    assert found == list(VERBS)
