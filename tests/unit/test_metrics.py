"""Metrics: what a view becomes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.core.advertise.advertisement import advertise
from plugin.core.health.events import Probe
from plugin.core.health.ledger import Entry, Ledger
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Samples
from plugin.core.reasons import Code, Reason
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import ResourceStatus
from plugin.web.metrics import dcgm
from plugin.web.metrics.family import PREFIX, Kind
from plugin.web.metrics.scrape import FAMILIES
from tests.unit.builders import gpu, mig_device, mig_gpu, node
from tests.unit.metric_views import (
    FULL_DEVICE,
    NOBODY,
    ONE_G,
    POD,
    SERVE,
    TRAIN,
    full,
    reason,
    samples,
    series,
    shared,
    text_of_labels,
    values,
    view,
)

# ---- what is said

SLICE = {
    "gpu": "0",
    "uuid": "MIG-0-7-0",
    "parent_uuid": "GPU-0",
    "profile": "1g.5gb",
    "gi": "7",
    "ci": "0",
    "resource": ONE_G,
}
WHOLE = {
    "gpu": "1",
    "uuid": "GPU-1",
    "parent_uuid": "GPU-1",
    "profile": "",
    "gi": "",
    "ci": "",
    "resource": "nvidia.com/gpu",
}
CALL = {"resource": ONE_G, "method": "Allocate"}


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("start_time_seconds", {}, 10),
        ("generation", {}, 7),
        ("geometry_generation", {}, 3),
        ("geometry_last_change_timestamp_seconds", {}, 500),
        ("driver_up", {}, 1),
        ("driver_busy_seconds", {}, 1.5),
        ("config_valid", {}, 0),
        ("config_waiting_options", {}, 1),
        ("config_changes_total", {"result": "taken"}, 3),
        ("config_changes_total", {"result": "refused"}, 2),
        ("unwatched_gpus", {}, 1),
        ("stuck_tasks", {}, 1),
        ("holders_known", {}, 1),
        ("sample_age_seconds", {}, 10),
        ("sample_duration_seconds", {}, 0.25),
        ("devices", {"resource": ONE_G, "state": "healthy"}, 1),
        ("devices", {"resource": ONE_G, "state": "unhealthy"}, 1),
        ("devices", {"resource": "nvidia.com/gpu", "state": "unhealthy"}, 1),
        ("devices", {"resource": "", "state": "withheld"}, 0),
        ("registered", {"resource": ONE_G}, 1),
        ("rival", {"resource": ONE_G}, 0),
        ("registrations_total", {"resource": ONE_G}, 2),
        ("stream_start_timestamp_seconds", {"resource": ONE_G}, 20),
        ("list_updates_sent_total", {"resource": ONE_G}, 5),
        ("call_errors_total", CALL, 1),
        ("call_duration_seconds_bucket", {**CALL, "le": "0.0001"}, 4),
        ("call_duration_seconds_bucket", {**CALL, "le": "0.00025"}, 5),
        ("call_duration_seconds_bucket", {**CALL, "le": "1.0"}, 5),
        ("call_duration_seconds_bucket", {**CALL, "le": "+Inf"}, 7),
        ("call_duration_seconds_count", CALL, 7),
        ("call_duration_seconds_sum", CALL, 3.5),
        ("device_healthy", {**SLICE, **POD}, 0),
        ("device_unhealthy_reason", {**SLICE, **POD, "reason": "xid-31"}, 1),
        ("device_unhealthy_reason", {**WHOLE, **NOBODY, "reason": "cordoned"}, 1),
        ("device_allocated", {**SLICE, **POD}, 1),
        ("device_cordoned", SLICE, 0),
        ("device_cordoned", WHOLE, 1),
        ("device_recoveries_total", SLICE, 2),
        ("device_recoveries_total", WHOLE, 0),
        ("device_last_fault_timestamp_seconds", SLICE, 950),
        ("device_xid_errors_total", {**SLICE, "xid": "31"}, 3),
        ("device_xid_errors_total", {**SLICE, "xid": "43"}, 1),
        ("device_memory_total_bytes", {**SLICE, **POD}, 5 << 30),
        ("device_memory_used_bytes", {**WHOLE, **NOBODY}, 1 << 30),
        ("device_memory_free_bytes", {**SLICE, **POD}, 4 << 30),
        ("device_memory_reserved_bytes", {**SLICE, **POD}, 64 << 20),
        ("device_processes", {**SLICE, **POD}, 2),
        ("device_sm_active_ratio", {**SLICE, **POD}, 0.5),
        ("device_sm_occupancy_ratio", {**SLICE, **POD}, 0.25),
        ("device_tensor_active_ratio", {**SLICE, **POD}, 0.125),
        ("device_dram_active_ratio", {**SLICE, **POD}, 0.75),
        ("device_graphics_active_ratio", {**SLICE, **POD}, 0.625),
        ("device_ecc_errors_total", {**SLICE, **POD, "type": "corrected"}, 3),
        ("device_ecc_errors_total", {**SLICE, **POD, "type": "uncorrected"}, 0),
        ("gpu_memory_slices", {"gpu": "0", "uuid": "GPU-0"}, 8),
        ("gpu_memory_slices_free", {"gpu": "0", "uuid": "GPU-0"}, 2),
        ("gpu_power_watts", {"gpu": "0", "uuid": "GPU-0"}, 301.5),
        ("gpu_temperature_celsius", {"gpu": "0", "uuid": "GPU-0"}, 45),
        ("gpu_sm_clock_hertz", {"gpu": "0", "uuid": "GPU-0"}, 1.41e9),
        ("gpu_memory_clock_hertz", {"gpu": "0", "uuid": "GPU-0"}, 1.593e9),
        ("gpu_utilization_ratio", {"gpu": "0", "uuid": "GPU-0"}, 0.37),
        ("gpu_memory_utilization_ratio", {"gpu": "0", "uuid": "GPU-0"}, 0.2),
        ("gpu_energy_joules_total", {"gpu": "0", "uuid": "GPU-0"}, 12345.678),
        ("gpu_row_remap_pending", {"gpu": "0", "uuid": "GPU-0"}, 0),
        ("gpu_row_remap_failure", {"gpu": "0", "uuid": "GPU-0"}, 1),
        ("gpu_recovery_action", {"gpu": "0", "uuid": "GPU-0"}, 1),
        ("gpu_remapped_rows", {"gpu": "0", "uuid": "GPU-0", "type": "correctable"}, 1),
        ("gpu_remapped_rows", {"gpu": "0", "uuid": "GPU-0", "type": "uncorrectable"}, 2),
        ("gpu_ecc_errors_total", {"gpu": "0", "uuid": "GPU-0", "type": "corrected"}, 5),
        ("gpu_ecc_errors_total", {"gpu": "0", "uuid": "GPU-0", "type": "uncorrected"}, 6),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_a_series(name: str, labels: Mapping[str, str], value: float, *, openmetrics: bool) -> None:
    found = series(samples(full(), openmetrics=openmetrics))
    assert found[PREFIX + name, frozenset(labels.items())] == value


def test_versions() -> None:
    (info,) = [s.labels for s in samples(full()) if s.name == "mig_device_plugin_build_info"]
    assert (info["driver"], info["cuda"]) == ("550.90", "12.4")
    assert info["version"]
    assert re.fullmatch(r"3\.\d+\.\d+.*", info["python"])


def test_every_family_and_no_other_is_there_with_its_labels() -> None:
    declared = {family.name: set(family.labels) for family in (*FAMILIES, *dcgm.FAMILIES)}
    histogram = next(family.name for family in FAMILIES if family.kind is Kind.HISTOGRAM)
    found: dict[str, set[str]] = {}
    for sample in samples(full()):
        name = histogram if sample.name.startswith(histogram) else sample.name
        labels = set(sample.labels) - {"le"}
        assert found.setdefault(name, labels) == labels, "one family has one set of labels"
    assert found == declared


def test_nothing_is_made_up_on_a_node_of_which_nothing_is_known() -> None:
    error = Reason(Code.DRIVER_UNAVAILABLE, "no driver")
    unknown = view(Inventory(), driver_error=error, driver_busy=0.0)
    assert series(samples(unknown)).keys() & {(PREFIX + "driver_up", frozenset())}
    assert values(unknown, PREFIX + "driver_up") == [0]
    assert values(unknown, PREFIX + "holders_known") == [0]
    assert {s.name.removeprefix(PREFIX).partition("_")[0] for s in samples(unknown)}.isdisjoint(
        {"device", "gpu", "sample", "call", "registered"}
    )
    (card,) = [
        s
        for s in samples(view(node(mig_gpu(0, "1g.5gb"))))
        if s.name.startswith(PREFIX + "gpu_info")
    ]
    assert card.labels["product"] == "NVIDIA A100-SXM4-40GB"
    assert values(view(node(mig_gpu(0, "1g.5gb"))), PREFIX + "device_memory_used_bytes") == []
    assert values(view(node(mig_gpu(0, "1g.5gb"))), PREFIX + "gpu_power_watts") == []


def test_a_closed_stream_has_no_start() -> None:
    closed = full(resources=(ResourceStatus(ONE_G, registered=False, registrations=2),))
    assert values(closed, PREFIX + "stream_start_timestamp_seconds") == []
    assert values(closed, PREFIX + "registered") == [0]


def test_a_rival_is_seen() -> None:
    rivalled = ResourceStatus(ONE_G, registered=False, rival="nvidia-mig-1g.5gb.sock")
    assert values(full(resources=(rivalled,)), PREFIX + "rival", resource=ONE_G) == [1]


def test_a_clock_that_steps_back_makes_no_negative_age() -> None:
    assert values(full(now=900.0), PREFIX + "sample_age_seconds") == [0]


# ---- devices


def test_a_device_that_is_in_no_list_has_no_resource_and_says_why() -> None:
    empty = view(node(gpu(0, mig=True)))
    assert values(empty, PREFIX + "devices", resource="", state="withheld") == [1]
    assert values(empty, PREFIX + "device_healthy", uuid="GPU-0", resource="") == [0]
    assert values(empty, PREFIX + "device_unhealthy_reason", uuid="GPU-0", reason="withheld") == [1]


def test_a_gpu_that_only_carries_mig_devices_is_no_device_but_has_a_history() -> None:
    cordoned: Ledger = {
        "GPU-0": Entry("GPU-0", reasons=(reason(Code.CORDONED),), xids={79: 1}, last_fault=950.0)
    }
    divided = view(
        node(mig_gpu(0, "1g.5gb", "1g.5gb")), ledger=cordoned, holders={"GPU-0": (TRAIN,)}
    )
    assert values(divided, PREFIX + "device_healthy", uuid="GPU-0") == []
    assert values(divided, PREFIX + "device_healthy", parent_uuid="GPU-0") == [0, 0]
    assert values(divided, PREFIX + "device_allocated") == []
    assert values(divided, PREFIX + "device_xid_errors_total", uuid="GPU-0", xid="79") == [1]
    assert values(divided, PREFIX + "device_cordoned") == [1, 1, 1]


def test_a_sample_from_before_a_gpu_was_divided_is_not_shown() -> None:
    stale = Samples(990.0, devices={"GPU-0": FULL_DEVICE})
    assert (
        values(view(node(mig_gpu(0, "1g.5gb")), samples=stale), PREFIX + "device_memory_used_bytes")
        == []
    )
    assert values(view(node(gpu(0)), samples=stale), PREFIX + "device_memory_used_bytes") == [
        1 << 30
    ]


def test_a_gpu_offered_whole_under_none_is_a_device_although_it_carries_instances() -> None:
    settings = Settings(mig_strategy=MigStrategy.NONE)
    whole = view(node(mig_gpu(0, "1g.5gb")), settings=settings, holders={"GPU-0": (TRAIN,)})
    assert values(
        whole, PREFIX + "device_healthy", uuid="GPU-0", resource="nvidia.com/gpu", pod="train-0"
    ) == [1]
    assert values(whole, PREFIX + "device_healthy", uuid="MIG-0-7-0", resource="") == [0]


def test_each_reason_is_one_series_whatever_its_words() -> None:
    lost = gpu(0, missing_device_nodes=("/dev/nvidia0", "/dev/nvidiactl"))
    settings = Settings(mig_strategy=MigStrategy.MIXED, pass_device_specs=True)
    faults: Ledger = {
        "GPU-0": Entry("GPU-0", reasons=(reason("xid-79"), reason("recovery-action")))
    }
    found = [
        s
        for s in samples(view(node(lost), settings=settings, ledger=faults))
        if s.name.endswith("_reason")
    ]
    assert Counter(s.labels["reason"] for s in found) == {
        "xid-79": 1,
        "recovery-action": 1,
        "missing-node": 1,
    }


def test_two_compute_instances_of_one_gpu_instance_are_told_apart() -> None:
    pair = (mig_device(0, 0, "3g.20gb"), mig_device(0, 0, "3g.20gb", ci=1, index=1))
    both = view(
        node(gpu(0, *pair)),
        holders={pair[0].uuid: (TRAIN,), pair[1].uuid: (SERVE,)},
        samples=Samples(
            990.0, devices=dict.fromkeys((device.uuid for device in pair), FULL_DEVICE)
        ),
    )
    for ci, pod in (("0", "train-0"), ("1", "serve-7")):
        assert values(both, PREFIX + "device_sm_active_ratio", gi="7", ci=ci, pod=pod) == [0.5]
        assert values(both, "DCGM_FI_PROF_SM_ACTIVE", GPU_I_ID="7", GPU_I_CI_ID=ci, pod=pod) == [
            0.5
        ]
    assert values(both, PREFIX + "gpu_memory_slices_free", gpu="0") == [4]


@pytest.mark.parametrize(
    "card",
    [gpu(0), gpu(0, mig_device(placement=None)), gpu(0, mig_device(), memory_slices=0)],
    ids=["without MIG", "unknown placement", "unknown slices"],
)
def test_free_slices_are_not_guessed(card: Any) -> None:
    assert values(view(node(card)), PREFIX + "gpu_memory_slices_free") == []


def test_row_remapping_that_only_a_probe_has_seen() -> None:
    probed = view(node(gpu(0)), gpu_health={"GPU-0": GpuHealth(Probe("GPU-0", remap_failure=True))})
    assert values(probed, PREFIX + "gpu_row_remap_failure") == [1]
    assert values(probed, "DCGM_FI_DEV_ROW_REMAP_FAILURE") == [1]


# ---- pods


def test_a_device_shared_by_several_pods_names_none_of_them() -> None:
    holders = {
        "MIG-0-7-0::0": (TRAIN,),
        "MIG-0-7-0::1": (SERVE,),
        "MIG-0-8-0::0": (SERVE,),
        "MIG-0-8-0::1": (SERVE,),
    }
    replicated = full(settings=shared(2), ledger={}, holders=holders)
    of_two = [
        s for s in samples(replicated) if s.labels.get("uuid") == "MIG-0-7-0" and "pod" in s.labels
    ]
    assert {s.labels["pod"] for s in of_two if s.name != PREFIX + "device_allocated"} == {""}
    allocated = [s.labels["pod"] for s in of_two if s.name == PREFIX + "device_allocated"]
    assert sorted(allocated) == ["serve-7", "train-0"]
    # Two replicas in one container are one holder, who can be named.
    assert values(replicated, PREFIX + "device_healthy", uuid="MIG-0-8-0", pod="serve-7") == [1]
    assert values(replicated, PREFIX + "device_allocated", uuid="MIG-0-8-0") == [1]
    assert values(replicated, PREFIX + "devices", resource=ONE_G, state="healthy") == [4]
    assert values(replicated, "DCGM_FI_DEV_FB_USED", GPU_I_ID="7", pod="") == [1024]


def test_no_label_outlives_its_pod() -> None:
    assert "train-0" in text_of_labels(full())
    assert "train-0" not in text_of_labels(full(holders={}))
    assert "train-0" not in text_of_labels(full(holders=None))


def test_no_label_outlives_its_device() -> None:
    before = full(holders={"MIG-0-7-0": (TRAIN,), "GPU-1": (SERVE,)})
    assert {"MIG-0-7-0", "GPU-1"} <= set(text_of_labels(before).split())
    settings = before.snapshot.settings
    left = node(gpu(2))
    after = replace(
        before,
        snapshot=replace(before.snapshot, inventory=left, advertisement=advertise(left, settings)),
        resources=(),
    )
    gone = text_of_labels(replace(after, calls={}))
    assert not {"MIG-0-7-0", "GPU-1", "train-0", "serve-7", ONE_G} & set(gone.split())
