"""``doctor``'s checks of what the driver answered."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from plugin.commands.check import Outcome
from plugin.commands.node_checks import node_checks
from plugin.core.inventory.model import Inventory, MigMode

from .builders import gpu, mig_device, mig_gpu, node
from .doctor_checks import FAIL, MIXED, PASS, WARN, named

CAP = "/dev/nvidia-caps/nvidia-cap63"


def test_a_healthy_node_passes() -> None:
    found = list(node_checks(node(mig_gpu(0, "1g.5gb", "2g.10gb"), gpu(1)), MIXED))
    assert {check.outcome for check in found} == {PASS}
    assert named(found, "driver").detail == "version 550.90, NVML 12.550"
    assert named(found, "GPUs").detail == "2 × NVIDIA A100-SXM4-40GB"
    assert named(found, "MIG").detail == "on for 1 of 2 GPUs, 2 MIG devices"
    assert (
        "1 × nvidia.com/mig-1g.5gb, 1 × nvidia.com/mig-2g.10gb" in named(found, "resources").detail
    )


@pytest.mark.parametrize(
    ("inventory", "name", "verdict", "expected"),
    [
        pytest.param(node(), "GPUs", FAIL, "none found", id="no GPUs"),
        pytest.param(
            node(), "resources", FAIL, "nothing would be advertised", id="nothing to advertise"
        ),
        pytest.param(
            node(gpu(0, error="GPU 0: lost")), "GPU", FAIL, "GPU 0: lost", id="a broken GPU"
        ),
        pytest.param(
            node(gpu(0, warnings=("MIG device 0:1 cannot be read",))),
            "hardware",
            FAIL,
            "0:1",
            id="a broken device",
        ),
        pytest.param(
            Inventory(unreadable={3: "GPU 3 has no UUID"}),
            "hardware",
            FAIL,
            "GPU 3",
            id="a GPU nobody knows",
        ),
        pytest.param(
            node(replace(gpu(0), mig=None)), "MIG", PASS, "no MIG", id="cards without MIG"
        ),
        pytest.param(
            node(gpu(0), replace(gpu(1), mig=MigMode(current=False, pending=True))),
            "MIG",
            WARN,
            "pending on GPU 1",
            id="MIG mode pending",
        ),
        pytest.param(
            node(gpu(0), gpu(1, mig=True)),
            "strategy",
            WARN,
            "no MIG devices",
            id="an empty MIG GPU",
        ),
        pytest.param(
            node(gpu(0, mig_device(0, 0, missing_device_nodes=(CAP,)))),
            "capability nodes",
            FAIL,
            CAP,
            id="a missing capability node",
        ),
        pytest.param(
            node(gpu(0, missing_device_nodes=("/dev/nvidia0",))),
            "device nodes",
            FAIL,
            "/dev/nvidia0",
            id="a missing device node",
        ),
        pytest.param(
            node(*(gpu(n, missing_device_nodes=(f"/dev/nvidia{n}",)) for n in range(6))),
            "device nodes",
            FAIL,
            "/dev/nvidia3 and 2 more",
            id="many missing nodes",
        ),
        pytest.param(
            replace(node(gpu(0)), control_nodes=("/dev/nvidiactl",)),
            "control nodes",
            WARN,
            "/dev/nvidia-uvm, /dev/nvidia-uvm-tools",
            id="missing control nodes",
        ),
    ],
)
def test_what_is_wrong_is_named_with_a_fix(
    inventory: Inventory, name: str, verdict: Outcome, expected: str
) -> None:
    check = named(node_checks(inventory, MIXED), name)
    assert check.outcome is verdict
    assert expected in check.detail
    assert bool(check.fix) == (verdict is not PASS)


def test_nodes_of_gpus_and_of_instances_are_told_apart() -> None:
    inventory = node(
        gpu(
            0,
            mig_device(0, 0, missing_device_nodes=("/dev/nvidia0", CAP)),
            missing_device_nodes=("/dev/nvidia0",),
        )
    )
    found = list(node_checks(inventory, MIXED))
    assert named(found, "device nodes").detail == "missing below /: /dev/nvidia0"
    assert named(found, "capability nodes").detail == f"missing below /: {CAP}"


def test_missing_nodes_are_no_failure_where_the_runtime_makes_them() -> None:
    settings = dataclasses.replace(MIXED, pass_device_specs=False)
    inventory = node(gpu(0, missing_device_nodes=("/dev/nvidia0",)))
    assert named(node_checks(inventory, settings), "device nodes").outcome is WARN
