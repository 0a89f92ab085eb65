"""Node labels: equal to what GPU Feature Discovery printed, and valid whatever the node is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.advertise.naming import NamePattern, Naming
from plugin.core.inventory.model import Gpu, Inventory, MigMode, Unknown
from plugin.core.labels.node import Labels, Values, labels
from plugin.core.labels.products import family
from plugin.core.labels.settling import settled
from plugin.core.settings import (
    MigStrategy,
    Settings,
    SharedResource,
    Sharing,
    SingleResource,
)
from plugin.sim.hardware.engine import parse_node
from tests.simulated import scan

from .builders import gpu, mig_device, mig_gpu, node, snapshot

#: What NVIDIA's program (0.20) printed on fake nodes.
RECORDED = Path(__file__).parent / "gfd"
GPU, ONE = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb"
MIXED, SINGLE, NONE = (
    Settings(mig_strategy=strategy)
    for strategy in (MigStrategy.MIXED, MigStrategy.SINGLE, MigStrategy.NONE)
)


def recorded(name: str) -> dict[str, str]:
    lines = (RECORDED / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def of(inventory: Inventory, settings: Settings = MIXED) -> Values:
    found = labels(replace(snapshot(inventory, settings), geometry=1))
    assert found is not None
    return found.values


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
    assert of(inventory, replace(settings, single_resource=named)) == recorded(recording)


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
            replace(NONE, sharing=shared(SharedResource(GPU, 4))),
            GPU,
            ("2", "4", "time-slicing", f"{A100}-SHARED"),
            id="shared GPUs",
        ),
        pytest.param(
            node(gpu(0), gpu(1)),
            replace(NONE, sharing=shared(SharedResource(GPU, 4, rename="nvidia.com/part"))),
            GPU,
            ("2", "4", "time-slicing", A100),
            id="shared under another name",
        ),
        pytest.param(
            node(gpu(0)),
            replace(NONE, sharing=shared(SharedResource(GPU, 2), by_default=True)),
            GPU,
            ("1", "2", "time-slicing", A100),
            id="renamed by default",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb", "1g.5gb")),
            replace(MIXED, sharing=shared(SharedResource(ONE, 3))),
            ONE,
            ("2", "3", "time-slicing", f"{MIG}-SHARED"),
            id="shared MIG devices",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")),
            replace(SINGLE, sharing=shared(SharedResource(ONE, 3))),
            GPU,
            ("1", "3", "time-slicing", f"{MIG}-SHARED"),
            id="shared under single",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")),
            replace(
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
            replace(MIXED, sharing=shared(SharedResource(ONE, 3))),
            GPU,
            ("2", "1", "none", A100),
            id="what is not shared stays plain",
        ),
        pytest.param(
            node(mig_gpu(0, "1g.5gb")),
            replace(MIXED, naming=Naming(migs=(NamePattern("1g.*", "nvidia.com/small"),))),
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


UNREAD = Unknown("reading its MIG mode")


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


# ---- valid, whatever the node is

KEY = re.compile(r"nvidia\.com/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)

texts = st.text(max_size=90) | st.text("Aa1-_. ()", max_size=90)
profiles = st.sampled_from(["1g.5gb", "1c.2g.10gb", "1g.5gb+me", "1g.24gb-me"]) | texts


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    devices = [
        mig_device(index, start, draw(profiles), multiprocessors=draw(st.integers(0, 200)))
        for start in range(draw(st.integers(0, 3)))
    ]
    changes: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {
                "product": texts,
                "memory_mib": st.integers(0, 2**40),
                "compute_capability": st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99)),
                "pci_class": st.none() | st.integers(0, 2**32),
                "mig": st.none() | st.builds(MigMode, st.booleans(), st.booleans()),
                "mig_unknown": st.none() | st.just(UNREAD),
                "error": st.none() | texts,
            }
        )
    )
    return replace(gpu(index, *devices), **changes)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    found = tuple(draw(gpus(index)) for index in range(draw(st.integers(0, 4))))
    return replace(
        node(*found),
        driver_version=draw(texts),
        machine=draw(texts),
        cuda_version=draw(st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99))),
        unreadable=draw(st.dictionaries(st.integers(0, 6), texts, max_size=2)),
    )


sharings = st.lists(
    st.builds(SharedResource, st.sampled_from([GPU, ONE]), st.integers(1, 9)), max_size=2
).map(lambda entries: Sharing(tuple(entries)))
settings = st.builds(
    Settings,
    mig_strategy=st.sampled_from(MigStrategy),
    single_resource=st.sampled_from(SingleResource),
    sharing=sharings,
)


@given(inventories(), settings)
def test_every_label_is_valid(inventory: Inventory, chosen: Settings) -> None:
    for key, value in of(inventory, chosen).items():
        assert KEY.fullmatch(key), key
        assert VALUE.fullmatch(value), (key, value)


# ---- what an earlier process wrote

ALL, SOME = node(*(mig_gpu(n, "1g.5gb") for n in range(8))), node(mig_gpu(0, "1g.5gb"))
SILENT = replace(SOME, unreadable={1: "GPU 1 cannot be read"})


def found(inventory: Inventory) -> Labels:
    told = labels(replace(snapshot(inventory), geometry=1))
    assert told is not None
    return told


@pytest.mark.parametrize(
    ("now", "before", "geometry", "held"),
    [
        pytest.param(SILENT, of(ALL), 1, True, id="a GPU is silent since the start"),
        pytest.param(SILENT, of(ALL), 2, False, id="the node has changed since"),
        pytest.param(SOME, of(ALL), 1, False, id="every GPU answers"),
        pytest.param(SILENT, {}, 1, False, id="nothing was written before"),
        pytest.param(SILENT, of(node(gpu(), gpu(1))), 1, False, id="devices are new"),
        pytest.param(
            SILENT, of(node(*(gpu(n, product="T4") for n in range(3)))), 1, False, id="other cards"
        ),
        pytest.param(
            SILENT, {**of(ALL), f"{ONE}.count": "many"}, 1, False, id="edited by somebody"
        ),
        pytest.param(
            SILENT,
            {**of(ALL), f"{ONE}.sharing-strategy": "time-slicing"},
            1,
            False,
            id="configured differently",
        ),
    ],
)
def test_counts_of_an_earlier_process_hold_while_a_gpu_is_silent(
    now: Inventory, before: Values, geometry: int, *, held: bool
) -> None:
    settled_ = settled(found(now), before, geometry)
    assert settled_[f"{ONE}.count"] == ("8" if held else "1")
    assert settled_[f"{GPU}.count"] == ("8" if held else "1")
    if not held:
        assert settled_ == found(now).values


def test_what_does_not_describe_devices_is_not_held() -> None:
    before = {**of(ALL), f"{GPU}.machine": "another", "nvidia.com/cuda.driver.major": "1", "x": "y"}
    after = settled(found(SILENT), before, 1)
    assert after == {**found(SILENT).values, f"{ONE}.count": "8", f"{GPU}.count": "8"}


def test_a_profile_that_only_the_silent_gpu_has_is_held() -> None:
    before = of(node(mig_gpu(0, "1g.5gb"), mig_gpu(1, "3g.20gb")))
    after = settled(found(SILENT), before, 1)
    assert after == before
