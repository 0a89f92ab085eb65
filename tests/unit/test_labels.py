"""Node labels: equal to what GPU Feature Discovery printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace

from plugin.core.advertise.naming import NamePattern, Naming
from plugin.core.inventory.model import Inventory
from plugin.core.labels.node import Values, labels
from plugin.core.labels.products import family
from plugin.core.settings import (
    Settings,
    SharedResource,
    Sharing,
    SingleResource,
)
from plugin.sim.hardware.engine import parse_node
from tests.simulated import scan

from .builders import gpu, mig_device, mig_gpu, node, snapshot
from .labelled import GPU, MIXED, NONE, ONE, SINGLE, UNREAD, of

#: What NVIDIA's program (0.20) printed on fake nodes.
RECORDED = Path(__file__).parent / "gfd"


def recorded(name: str) -> dict[str, str]:
    lines = (RECORDED / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def about(values: Values, prefix: str) -> dict[str, str]:
    return {
        key.removeprefix(f"{prefix}."): value
        for key, value in values.items()
        if key.startswith(f"{prefix}.")
    }


@pytest.mark.parametrize("named", SingleResource)
@pytest.mark.parametrize(
    ("recording", "simulated", "settings"),
    [
        ("p4d-all-1g.5gb-single", "p4d.24xlarge:all-1g.5gb", SINGLE),
        ("p4d-all-balanced-mixed", "p4d.24xlarge:all-balanced", MIXED),
        ("p4d-mig-off-none", "p4d.24xlarge", NONE),
    ],
)
def test_labels_are_those_of_gpu_feature_discovery(
    recording: str, simulated: str, settings: Settings, named: SingleResource
) -> None:
    driver = "580.65.06"  # of the node where it was recorded
    inventory = replace(scan(parse_node(simulated)), driver_version=driver)
    assert of(inventory, dataclasses.replace(settings, single_resource=named)) == recorded(
        recording
    )


def test_every_recording_is_compared() -> None:
    assert sorted(path.stem for path in RECORDED.iterdir()) == [
        "p4d-all-1g.5gb-single",
        "p4d-all-balanced-mixed",
        "p4d-mig-off-none",
    ]


# ---- what the recordings do not show


def shared(*entries: SharedResource, by_default: bool = False) -> Sharing:
    return Sharing(entries, rename_by_default=by_default)


A100, MIG = "NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"


@pytest.mark.parametrize(
    ("inventory", "settings", "prefix", "expected"),
    [
        pytest.param(
            node(gpu(0), gpu(1)),
            dataclasses.replace(NONE, sharing=shared(SharedResource(GPU, 4))),
            GPU,
            ("2", "4", "time-slicing", f"{A100}-SHARED"),
            id="shared GPUs",
        ),
        pytest.param(
            node(gpu(0), gpu(1)),
            dataclasses.replace(
                NONE, sharing=shared(SharedResource(GPU, 4, rename="nvidia.com/part"))
            ),
            GPU,
            ("2", "4", "time-slicing", A100),
            id="shared under another name",
        ),
        pytest.param(
            node(gpu(0)),
            dataclasses.replace(NONE, sharing=shared(SharedResource(GPU, 2), by_default=True)),
            GPU,
            ("1", "2", "time-slicing", A100),
            id="renamed by default",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb", "1g.5gb")),
            dataclasses.replace(MIXED, sharing=shared(SharedResource(ONE, 3))),
            ONE,
            ("2", "3", "time-slicing", f"{MIG}-SHARED"),
            id="shared MIG devices",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")),
            dataclasses.replace(SINGLE, sharing=shared(SharedResource(ONE, 3))),
            GPU,
            ("1", "3", "time-slicing", f"{MIG}-SHARED"),
            id="shared under single",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")),
            dataclasses.replace(
                SINGLE,
                single_resource=SingleResource.GPU,
                sharing=shared(SharedResource(GPU, 3)),
            ),
            GPU,
            ("1", "3", "time-slicing", f"{MIG}-SHARED"),
            id="shared under single, as gpu",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb"), gpu(1)),
            dataclasses.replace(MIXED, sharing=shared(SharedResource(ONE, 3))),
            GPU,
            ("2", "1", "none", A100),
            id="what is not shared stays plain",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")),
            dataclasses.replace(
                MIXED, naming=Naming(migs=(NamePattern("1g.*", "nvidia.com/small"),))
            ),
            ONE,
            ("1", "1", "none", MIG),
            id="another resource name",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "2g.10gb")),
            SINGLE,
            GPU,
            ("0", "0", "none", f"{A100}-MIG-INVALID"),
            id="two profiles under single",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb"), gpu(1)),
            SINGLE,
            GPU,
            ("0", "0", "none", f"{A100}-MIG-INVALID"),
            id="a GPU without MIG under single",
        ),
        pytest.param(
            node(gpu(0, mig=True)),
            SINGLE,
            GPU,
            ("0", "0", "none", f"{A100}-MIG-INVALID"),
            id="no device under single",
        ),
        pytest.param(
            node(gpu(0, mig=True), mig_gpu(1, "1g.5gb")),
            SINGLE,
            GPU,
            ("1", "1", "none", MIG),
            id="an empty GPU under single, beside devices",
        ),
        pytest.param(
            node(gpu(0, mig_device(profile="", error="no answer"))),
            SINGLE,
            GPU,
            ("0", "0", "none", None),
            id="only devices without a profile under single",
        ),
        pytest.param(
            node(gpu(0), gpu(1)), SINGLE, GPU, ("2", "1", "none", A100), id="single without MIG"
        ),
        pytest.param(
            node(gpu(0, mig_device(), mig_device(0, 1, "", error="no answer"))),
            MIXED,
            ONE,
            ("1", "1", "none", MIG),
            id="a device without a profile",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb+me")),
            MIXED,
            f"{ONE}.me",
            ("1", "1", "none", f"{MIG}.me"),
            id="a profile with an attribute",
        ),
        pytest.param(
            node(gpu(0, mig=True), gpu(1, product="NVIDIA T4"), gpu(2, product="")),
            MIXED,
            GPU,
            ("1", "1", "none", "NVIDIA-T4"),
            id="several products: the whole GPUs'",
        ),
        pytest.param(
            node(gpu(0), gpu(1, product="", error="lost")),
            MIXED,
            GPU,
            ("2", "1", "none", A100),
            id="one name could not be read",
        ),
        pytest.param(
            node(gpu(0, product="")), MIXED, GPU, ("1", "1", "none", None), id="no name at all"
        ),
    ],
)
def test_counts_and_products(
    inventory: Inventory,
    settings: Settings,
    prefix: str,
    expected: tuple[str, str, str, str | None],
) -> None:
    found = about(of(inventory, settings), prefix)
    assert tuple(
        found.get(key) for key in ("count", "replicas", "sharing-strategy", "product")
    ) == (expected)


def test_an_invalid_node_has_no_memory_and_keeps_what_is_true() -> None:
    found = of(node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "2g.10gb")), SINGLE)
    assert about(found, GPU)["memory"] == "0"
    assert "multiprocessors" not in about(found, GPU)
    assert found["nvidia.com/mig.strategy"] == "single"
    assert found["nvidia.com/mig.capable"] == "true"


@pytest.mark.parametrize(
    ("inventory", "key", "value"),
    [
        (replace(node(gpu()), machine="Standard PC (i440FX + PIIX, 1996)"), f"{GPU}.machine",
         "Standard-PC-i440FX-PIIX-1996"),
        (node(gpu()), f"{GPU}.machine", "unknown"),
        (replace(node(gpu()), machine="(?)"), f"{GPU}.machine", "unknown"),
        (node(gpu(pci_class=0x030000)), f"{GPU}.mode", "graphics"),
        (node(gpu(pci_class=0x030200), gpu(1)), f"{GPU}.mode", "compute"),
        (node(gpu(pci_class=0x030200), gpu(1, pci_class=0x030000)), f"{GPU}.mode", "unknown"),
        (node(gpu(pci_class=0x120000)), f"{GPU}.mode", "unknown"),
        (node(gpu()), f"{GPU}.mode", "unknown"),
        (node(gpu(mig=None)), "nvidia.com/mig.capable", "true"),
        (node(replace(gpu(), mig=None)), "nvidia.com/mig.capable", "false"),
        (node(replace(gpu(), mig=None, mig_unknown=UNREAD)), "nvidia.com/mig.capable", None),
        (node(replace(gpu(), mig=None, mig_unknown=UNREAD), gpu(1)), "nvidia.com/mig.capable",
         "true"),
        (node(gpu()), "nvidia.com/vgpu.present", "false"),
        (node(gpu(product="GRID T4-16Q")), "nvidia.com/vgpu.present", "true"),
        (node(gpu(product="NVIDIA A100-1-5C")), "nvidia.com/vgpu.present", "true"),
        (node(gpu(product="NVIDIA A100-SXM4-40GB")), "nvidia.com/vgpu.present", "false"),
        (replace(node(gpu()), driver_version="550.90"), "nvidia.com/cuda.driver.rev", ""),
        (replace(node(gpu()), driver_version="550"), "nvidia.com/cuda.driver.major", None),
        (replace(node(gpu()), driver_version=""), "nvidia.com/cuda.driver-version.full", None),
        (replace(node(gpu()), cuda_version=None), "nvidia.com/cuda.runtime.major", None),
        (node(gpu(compute_capability=None)), f"{GPU}.family", None),
        (node(gpu(compute_capability=(10, 3))), f"{GPU}.family", "blackwell"),
        (node(gpu(memory_mib=0)), f"{GPU}.memory", None),
        (node(gpu(product="x" * 80)), f"{GPU}.product", "x" * 63),
        (node(gpu(0, mig_device(), product="NVIDIA " + "x" * 80)), f"{ONE}.product",
         "NVIDIA-" + "x" * (63 - 7 - len("-MIG-1g.5gb")) + "-MIG-1g.5gb"),
    ],
)  # fmt: skip
def test_what_is_known_of_the_machine(inventory: Inventory, key: str, value: str | None) -> None:
    assert of(inventory).get(key) == value


@pytest.mark.parametrize(
    ("capability", "name"),
    [((7, 0), "volta"), ((7, 5), "turing"), ((8, 0), "ampere"), ((8, 6), "ampere"),
     ((8, 9), "ada-lovelace"), ((9, 0), "hopper"), ((10, 0), "blackwell"), ((12, 0), "blackwell"),
     ((6, 1), "pascal"), ((4, 0), "undefined"), ((99, 0), "undefined")],
)  # fmt: skip
def test_families(capability: tuple[int, int], name: str) -> None:
    assert family(*capability) == name


def test_nothing_is_said_before_the_first_scan_and_of_a_node_without_gpus() -> None:
    assert labels(snapshot(node(gpu()))) is None
    assert of(node()) == {}


def test_a_gpu_that_is_lost_later_changes_no_label() -> None:
    before = of(node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "1g.5gb")))
    lost = replace(mig_gpu(1, "1g.5gb"), error="lost", hung=True, mig_unknown=UNREAD)
    assert of(node(mig_gpu(0, "1g.5gb"), lost)) == before
