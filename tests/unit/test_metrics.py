"""Metrics: what a view becomes, in both formats, and what docs/metrics.md says of it."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from plugin.core.advertise.advertisement import advertise
from plugin.core.health.events import Probe
from plugin.core.health.ledger import Entry, Ledger, verdicts
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Activity, CardSample, DeviceSample, Samples
from plugin.core.reasons import Clears, Code, Reason
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing
from plugin.core.state import Snapshot
from plugin.core.view import DURATION_BOUNDS, CallStats, Holder, ResourceStatus, View
from plugin.web.metrics import dcgm
from plugin.web.metrics.family import PREFIX, Kind
from plugin.web.metrics.scrape import FAMILIES, ViewCollector, render
from plugin.web.metrics.subjects import CARD, DEVICE, HOLDER, IDENTITY
from tests.unit.builders import gpu, mig_device, mig_gpu, node

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/metrics.md"
ONE_G = "nvidia.com/mig-1g.5gb"
TRAIN = Holder("research", "train-0", "cuda")
SERVE = Holder("web", "serve-7", "main")

library_openmetrics: Callable[[CollectorRegistry], bytes] = generate_openmetrics

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not on PATH"
)


def body(view: View, *, openmetrics: bool = False, dcgm_names: bool = True) -> str:
    return render(view, openmetrics=openmetrics, dcgm_names=dcgm_names, hostname="node-1")[
        0
    ].decode()


def parsed(view: View, **options: bool) -> list[Metric]:
    parse = parse_openmetrics if options.get("openmetrics") else parse_text
    return list(parse(body(view, **options)))


def samples(view: View, **options: bool) -> list[Sample]:
    return [sample for metric in parsed(view, **options) for sample in metric.samples]


def series(samples: Iterable[Sample]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def values(view: View, name: str, **labels: str) -> list[float]:
    """Values of the series of a family that have these labels."""
    return [s.value for s in samples(view) if s.name == name and labels.items() <= s.labels.items()]


def view(
    inventory: Inventory,
    *,
    settings: Settings | None = None,
    ledger: Ledger | None = None,
    driver_error: Reason | None = None,
    **changes: Any,
) -> View:
    settings = settings or Settings(mig_strategy=MigStrategy.MIXED)
    ledger = ledger or {}
    snapshot = Snapshot(
        generation=7,
        settings=settings,
        inventory=inventory,
        advertisement=advertise(inventory, settings, verdicts(ledger, inventory)),
        driver_error=driver_error,
        ledger=ledger,
        gpu_health=changes.pop("gpu_health", {}),
        unwatched=changes.pop("unwatched", {}),
    )
    return replace(View(now=1000.0, started=10.0, snapshot=snapshot, changed=500.0), **changes)


def reason(code: str, **changes: Any) -> Reason:
    return replace(Reason(code, f"text of {code}", 900.0, 950.0, Clears.RECOVERY), **changes)


def shared(replicas: int) -> Settings:
    sharing = Sharing(resources=(SharedResource(name=ONE_G, replicas=replicas),))
    return Settings(mig_strategy=MigStrategy.MIXED, sharing=sharing)


FULL_DEVICE = DeviceSample(
    memory_total=5 << 30,
    memory_used=1 << 30,
    memory_free=4 << 30,
    memory_reserved=64 << 20,
    processes=2,
    activity=Activity(0.5, 0.25, 0.125, 0.75, 0.625),
    ecc_corrected=3,
    ecc_uncorrected=0,
)
FULL_CARD = CardSample(
    power=301.5,
    temperature=45.0,
    sm_clock=1.41e9,
    memory_clock=1.593e9,
    energy=12345.678,
    utilisation=0.37,
    memory_utilisation=0.2,
    remapped_correctable=1,
    remapped_uncorrectable=2,
    remap_pending=False,
    remap_failure=True,
    ecc_corrected=5,
    ecc_uncorrected=6,
)
NODE = replace(node(mig_gpu(0, "1g.5gb", "1g.5gb", "3g.20gb"), gpu(1)), cuda_version=(12, 4))
STATS = CallStats((4, 1, *(0,) * (len(DURATION_BOUNDS) - 2), 2), seconds=3.5, errors=1)


def full(**changes: Any) -> View:
    """A node of which everything is known, with a fault, a cordon, and a pod on one slice."""
    devices = [device.uuid for device in NODE.devices()]
    given: dict[str, Any] = {
        "ledger": {
            "MIG-0-7-0": Entry(
                "GPU-0",
                7,
                0,
                (reason("xid-31"),),
                xids={31: 3, 43: 1},
                last_fault=950.0,
                recoveries=2,
            ),
            "GPU-1": Entry("GPU-1", reasons=(reason(Code.CORDONED, clears=Clears.OPERATOR),)),
        },
        "gpu_health": {
            "GPU-0": GpuHealth(Probe("GPU-0", recovery_action=1, retirement_pending=False)),
            "GPU-1": GpuHealth(Probe("GPU-1")),
        },
        "unwatched": {"GPU-1": "not supported"},
        "resources": (
            ResourceStatus(
                ONE_G, registered=True, registrations=2, stream_since=20.0, lists_sent=5
            ),
        ),
        "calls": {(ONE_G, "Allocate"): STATS},
        "holders": {"MIG-0-7-0": (TRAIN,)},
        "samples": Samples(
            time=990.0,
            seconds=0.25,
            devices=dict.fromkeys((uuid for uuid in devices if uuid != "GPU-0"), FULL_DEVICE),
            cards={"GPU-0": FULL_CARD, "GPU-1": FULL_CARD},
        ),
        "geometry": 3,
        "driver_busy": 1.5,
        "stuck": ("prober",),
    }
    return view(NODE, **(given | changes))


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
POD = {"namespace": "research", "pod": "train-0", "container": "cuda"}
NOBODY = {"namespace": "", "pod": "", "container": ""}
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
    unknown = view(
        Inventory(), driver_error=Reason(Code.DRIVER_UNAVAILABLE, "no driver"), driver_busy=0.0
    )
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


def text_of_labels(view: View) -> str:
    return " ".join(value for sample in samples(view) for value in sample.labels.values())


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


# ---- formats


def test_both_formats_say_the_same() -> None:
    text, openmetrics = (series(samples(full(), openmetrics=which)) for which in (False, True))
    assert text == openmetrics
    assert [
        render(full(), openmetrics=which, dcgm_names=False, hostname="")[1]
        for which in (False, True)
    ] == [
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ]


@pytest.mark.parametrize(
    "name", ["plain", 'a "card"', "back\\slash", "two\nlines", "\\n", "ünïcode"], ids=repr
)
def test_text_is_what_the_library_writes(name: str) -> None:
    odd = full(holders={"MIG-0-7-0": (replace(TRAIN, pod=name),)})
    registry = CollectorRegistry()
    registry.register(ViewCollector(odd, dcgm_names=True, hostname="node-1"))
    assert body(odd) == generate_latest(registry).decode()
    assert body(odd, openmetrics=True) == library_openmetrics(registry).decode()
    assert name in {s.labels.get("pod") for s in samples(odd)}


def test_a_name_that_is_no_text_does_not_cost_the_scrape() -> None:
    assert "broken ? card" in text_of_labels(view(node(gpu(0, product="broken \udcff card"))))


def test_nothing_is_registered_with_the_librarys_global_registry() -> None:
    render(full(), openmetrics=False, dcgm_names=True, hostname="")
    assert PREFIX not in generate_latest().decode()


@promtool
def test_promtool_finds_nothing_to_complain_of() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=body(full(), dcgm_names=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


@promtool
def test_promtool_reads_dcgm_names_and_dislikes_only_their_style() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=body(full()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 3, check.stderr  # "style and consistency"
    assert [line for line in check.stderr.splitlines() if not line.startswith("DCGM_FI_")] == []


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


COUNTS = st.integers(0, 2**63)
SHARES = st.floats(0, 1)
LAYOUTS = st.sampled_from(
    [
        (),
        ("7g.40gb",),
        ("1g.5gb",) * 7,
        ("3g.20gb", "3g.20gb"),
        ("4g.20gb", "2g.10gb", "1g.5gb"),
        None,
    ]
)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any node: known or not, whole or divided, with two compute instances in one place, shared,
    held, at fault.
    """
    gpus = []
    for index, profiles in enumerate(draw(st.lists(LAYOUTS, max_size=3))):
        card = gpu(index) if profiles is None else mig_gpu(index, *profiles)
        if draw(st.booleans()) and card.mig_devices:
            first = card.mig_devices[0]
            second = replace(first, uuid=f"{first.uuid}-second", ci=1, index=9)
            card = replace(card, mig_devices=(first, second, *card.mig_devices[1:]))
        changes = {"product": draw(st.text(max_size=4)), "error": draw(optional(st.just("lost")))}
        gpus.append(replace(card, **changes))
    inventory = Inventory(
        tuple(gpus), draw(st.text(max_size=4)), cuda_version=draw(optional(st.just((12, 4))))
    )
    uuids = [device.uuid for device in inventory.devices()]
    known = st.sampled_from([*uuids, "GPU-gone"])
    names = st.text(max_size=3)
    reasons = st.lists(
        st.sampled_from(["xid-31", "xid-79", Code.CORDONED]).map(reason), max_size=3, unique=True
    )
    entries = st.builds(
        Entry,
        st.just(""),
        reasons=reasons.map(tuple),
        xids=st.dictionaries(st.integers(0, 200), COUNTS),
    )
    devices = st.builds(
        DeviceSample,
        memory_total=optional(COUNTS),
        memory_used=optional(COUNTS),
        processes=optional(COUNTS),
        activity=st.builds(Activity, optional(SHARES), optional(SHARES)),
        ecc_corrected=optional(COUNTS),
    )
    cards = st.builds(
        CardSample,
        power=optional(SHARES),
        energy=optional(SHARES),
        remap_pending=optional(st.booleans()),
    )
    samples = st.builds(
        Samples,
        time=st.floats(0, 2000),
        devices=st.dictionaries(known, devices),
        cards=st.dictionaries(known, cards),
    )
    ids = st.builds("{}{}".format, known, st.sampled_from(["", "::0", "::1", "::2"]))
    holders = st.lists(st.builds(Holder, names, names, names), max_size=3).map(tuple)
    buckets = st.lists(
        COUNTS, min_size=len(DURATION_BOUNDS) + 1, max_size=len(DURATION_BOUNDS) + 1
    ).map(tuple)
    resources = st.sampled_from([ONE_G, "nvidia.com/gpu"])
    methods = st.sampled_from(["Allocate", "GetPreferredAllocation"])
    settings = draw(
        st.sampled_from([shared(3), *(Settings(mig_strategy=strategy) for strategy in MigStrategy)])
    )
    return view(
        inventory,
        settings=settings,
        ledger=draw(st.dictionaries(known, entries)),
        resources=draw(
            st.lists(st.builds(ResourceStatus, resources, st.booleans()), max_size=3).map(tuple)
        ),
        calls=draw(
            st.dictionaries(
                st.tuples(resources, methods), st.builds(CallStats, buckets, st.floats(0, 9))
            )
        ),
        holders=draw(optional(st.dictionaries(ids, holders))),
        samples=draw(optional(samples)),
    )


@settings(max_examples=50)  # each is read twice by parsers that are made to be strict, not fast
@given(views())
def test_no_view_makes_a_series_twice_or_a_body_that_cannot_be_read(any_view: View) -> None:
    found = samples(any_view)
    assert [
        name
        for name, count in Counter((s.name, *sorted(s.labels.items())) for s in found).items()
        if count > 1
    ] == []
    assert series(samples(any_view, openmetrics=True)) == series(found)
    assert not any(math.isnan(sample.value) for sample in found)
    present = {device.uuid for device in any_view.snapshot.inventory.devices()}
    assert {
        s.labels[key] for s in found for key in ("uuid", "parent_uuid", "UUID") if key in s.labels
    } <= present


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


# ---- documents

LABEL_SETS = {"device": DEVICE, "identity": IDENTITY, "holder": HOLDER, "card": CARD}


def rows() -> dict[str, list[str]]:
    """Rows of the document's tables by the name of the family they are about."""
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(?:mig_device_plugin_|DCGM_FI_)\w+` \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            name = match[0].strip("| `")
            assert name not in found
            found[name] = cells[1:]
    return found


def test_the_document_has_every_family_with_its_kind_and_labels() -> None:
    documented = {}
    for name, (kind, labels, *_) in rows().items():
        if not name.startswith("DCGM"):
            words = [word.strip() for word in labels.split(",") if word.strip() != "–"]
            written = [LABEL_SETS.get(word.strip("*"), (word.strip("`"),)) for word in words]
            documented[name] = (kind, [label for group in written for label in group])
    assert documented == {
        family.name: (family.kind.value, list(family.labels)) for family in FAMILIES
    }


def test_the_document_has_every_dcgm_name() -> None:
    assert {name for name in rows() if name.startswith("DCGM")} == {
        family.name for family in dcgm.FAMILIES
    }


def test_the_documents_numbers_of_series_are_right() -> None:
    """``2 r + 1`` and the like, for the node in which everything is known."""
    counts = {
        "d": 4,
        "a": 5,
        "g": 2,
        "r": 3,
        "k": 1,
        "m": 1,
        "h": 1,
        "w": 2,
        "x": 2,
        "f": 1,
        "s": 1,
        "n": 1,
        "u": 1,
    }
    found = Counter(
        re.sub(r"_(bucket|sum|count)$", "", s.name) if "duration" in s.name else s.name
        for s in samples(full())
    )
    for name, cells in rows().items():
        expected = 0
        for term in cells[-2].split("+"):
            factor, _, variable = term.strip().rpartition(" ")
            expected += int(factor or 1) * (
                counts[variable] if variable in counts else int(variable)
            )
        assert found[name] == expected, name


def queries() -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return [
        query
        for block in blocks
        for query in re.split(r"\n\s*\n", re.sub(r"^#.*\n", "", block, flags=re.MULTILINE))
    ]


def test_the_documents_queries_use_what_there_is() -> None:
    names = {family.name for family in (*FAMILIES, *dcgm.FAMILIES)}
    used = {
        name
        for query in queries()
        for name in re.findall(r"\b(?:mig_device_plugin_|DCGM_FI_)\w+", query)
    }
    assert used
    assert {
        re.sub(r"_duration_seconds_(bucket|sum|count)$", "_duration_seconds", name) for name in used
    } <= names


@promtool
def test_the_documents_queries_are_promql(tmp_path: Path) -> None:
    rules = "".join(
        f"  - record: test:query{n}\n    expr: |\n" + indent(query)
        for n, query in enumerate(queries())
    )
    file = tmp_path / "rules.yaml"
    file.write_text(f"groups:\n- name: queries\n  rules:\n{rules}", encoding="utf-8")
    check = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def indent(query: str) -> str:
    return "".join(f"      {line}\n" for line in query.strip().splitlines())
