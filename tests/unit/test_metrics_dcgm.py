"""Metrics under DCGM's names."""

from __future__ import annotations

from collections import Counter

import pytest

from plugin.core.health.ledger import Entry
from plugin.core.inventory.samples import DeviceSample, Samples
from plugin.web.metrics.subjects import HOLDER
from tests.unit.builders import gpu, node
from tests.unit.metric_views import (
    FULL_CARD,
    NOBODY,
    POD,
    SERVE,
    body,
    full,
    samples,
    values,
    view,
)

# ---- dcgm

DCGM_INSTANCE_NAMES = {
    *(
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_FB_FREE",
        "DCGM_FI_DEV_FB_RESERVED",
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    ),
    *("DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_PROF_SM_OCCUPANCY", "DCGM_FI_PROF_DRAM_ACTIVE"),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    *("DCGM_FI_DEV_FB_TOTAL", "DCGM_FI_DEV_FB_USED_PERCENT"),
    *("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"),
}
DCGM_CARD_NAMES = {
    *(
        "DCGM_FI_DEV_GPU_UTIL",
        "DCGM_FI_DEV_GPU_TEMP",
        "DCGM_FI_DEV_POWER_USAGE",
        "DCGM_FI_DEV_SM_CLOCK",
    ),
    *("DCGM_FI_DEV_MEM_CLOCK", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_XID_ERRORS"),
    *("DCGM_FI_DEV_ROW_REMAP_FAILURE", "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS"),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
    *("DCGM_FI_DEV_MEM_COPY_UTIL", "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL"),
    "DCGM_FI_DEV_ROW_REMAP_PENDING",
}


def test_dcgm_names_only_when_wanted() -> None:
    assert {
        s.name for s in samples(full()) if s.name.startswith("DCGM")
    } == DCGM_INSTANCE_NAMES | DCGM_CARD_NAMES
    assert "DCGM" not in body(full(), dcgm_names=False)


def test_dcgm_instances_and_cards_are_each_there_once() -> None:
    per_card = Counter(s.name for s in samples(full()) if s.name in DCGM_CARD_NAMES)
    assert set(per_card.values()) == {2}
    per_instance = Counter(s.name for s in samples(full()) if s.name in DCGM_INSTANCE_NAMES)
    assert set(per_instance.values()) == {4}
    assert values(full(), "DCGM_FI_DEV_FB_USED", GPU_I_ID="") == [
        1024
    ]  # the GPU that is not divided


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCGM_FI_DEV_GPU_UTIL", 37),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", 20),
        ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", 6),
        ("DCGM_FI_DEV_ROW_REMAP_PENDING", 0),
        ("DCGM_FI_DEV_GPU_TEMP", 45),
        ("DCGM_FI_DEV_POWER_USAGE", 301.5),
        ("DCGM_FI_DEV_SM_CLOCK", 1410),
        ("DCGM_FI_DEV_MEM_CLOCK", 1593),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 12345678),
        ("DCGM_FI_DEV_XID_ERRORS", 43),
        ("DCGM_FI_DEV_ROW_REMAP_FAILURE", 1),
        ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", 1),
        ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 2),
    ],
)
def test_dcgm_values_of_a_card(name: str, value: float) -> None:
    (found,) = [s for s in samples(full()) if s.name == name and s.labels["gpu"] == "0"]
    assert found.value == value
    assert found.labels == {
        "gpu": "0",
        "UUID": "GPU-0",
        "pci_bus_id": "00000000:00:00.0",
        "device": "nvidia0",
        "modelName": "NVIDIA A100-SXM4-40GB",
        "Hostname": "node-1",
        "hostname": "node-1",
        "DCGM_FI_DRIVER_VERSION": "550.90",
        **NOBODY,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCGM_FI_DEV_FB_USED", 1024),
        ("DCGM_FI_DEV_FB_FREE", 4096),
        ("DCGM_FI_DEV_FB_RESERVED", 64),
        ("DCGM_FI_DEV_FB_TOTAL", 5120),
        ("DCGM_FI_DEV_FB_USED_PERCENT", round(1024 / (5120 - 64), 6)),
        ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 3),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 0),
        ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.625),
        ("DCGM_FI_PROF_SM_ACTIVE", 0.5),
        ("DCGM_FI_PROF_SM_OCCUPANCY", 0.25),
        ("DCGM_FI_PROF_DRAM_ACTIVE", 0.75),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.125),
    ],
)
def test_dcgm_values_of_an_instance(name: str, value: float) -> None:
    (found,) = [s for s in samples(full()) if s.name == name and s.labels["GPU_I_ID"] == "7"]
    assert found.value == value
    assert found.labels["UUID"] == "GPU-0"
    assert found.labels["GPU_I_PROFILE"] == "1g.5gb"
    assert {key: found.labels[key] for key in HOLDER} == POD


@pytest.mark.parametrize(
    ("sample", "share"),
    [
        (DeviceSample(memory_total=100, memory_used=25, memory_reserved=50), [0.5]),
        (DeviceSample(memory_total=100, memory_used=25), [0.25]),
        (DeviceSample(memory_total=100), []),
        (DeviceSample(memory_used=25), []),
        (DeviceSample(memory_total=50, memory_used=0, memory_reserved=50), []),
    ],
)
def test_dcgm_share_of_memory_is_told_where_it_is_known(
    sample: DeviceSample, share: list[float]
) -> None:
    seen = view(node(gpu(0)), samples=Samples(time=1.0, devices={"GPU-0": sample}))
    assert values(seen, "DCGM_FI_DEV_FB_USED_PERCENT") == share


def test_dcgm_names_the_pod_that_holds_a_whole_card() -> None:
    held = full(holders={"GPU-1": (SERVE,)})
    assert values(held, "DCGM_FI_DEV_GPU_UTIL", gpu="1", pod="serve-7") == [37]
    assert values(held, "DCGM_FI_DEV_FB_USED", gpu="1", pod="serve-7") == [1024]


def test_dcgm_latest_xid_is_that_of_the_latest_fault_on_the_card() -> None:
    older = Entry("GPU-0", 7, 0, xids={31: 3}, last_fault=950.0)
    newer = Entry("GPU-0", xids={79: 1}, last_fault=960.0)
    faults = full(ledger={"MIG-0-7-0": older, "GPU-0": newer})
    assert values(faults, "DCGM_FI_DEV_XID_ERRORS", gpu="0") == [79]
    assert values(faults, "DCGM_FI_DEV_XID_ERRORS", gpu="1") == [0]


def test_a_bus_id_is_written_as_nvml_writes_it() -> None:
    odd = view(
        node(gpu(0, pci_bus_id="0001:0f:1c.0", minor=3)),
        samples=Samples(1.0, cards={"GPU-0": FULL_CARD}),
    )
    (power,) = [s for s in samples(odd) if s.name == "DCGM_FI_DEV_POWER_USAGE"]
    assert (power.labels["pci_bus_id"], power.labels["device"]) == ("00000001:0F:1C.0", "nvidia3")
