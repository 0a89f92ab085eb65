"""Views for the tests of the metrics, and readers of what they become."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from plugin.core.advertise.advertisement import advertise
from plugin.core.configuration import Configuration, Waiting
from plugin.core.health.events import Probe
from plugin.core.health.ledger import Entry, Ledger, verdicts
from plugin.core.health.recovery import GpuHealth
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Activity, CardSample, DeviceSample, Samples
from plugin.core.partition.order import Source
from plugin.core.partition.progress import Counts, GpuProgress, GpuState, Progress, State
from plugin.core.partition.trouble import Code as TroubleCode
from plugin.core.partition.trouble import Trouble
from plugin.core.reasons import Clears, Code, Reason
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing
from plugin.core.state import Snapshot
from plugin.core.view import (
    DURATION_BOUNDS,
    CallStats,
    ClusterStatus,
    Holder,
    ResourceStatus,
    View,
)
from plugin.web.metrics.scrape import render
from tests.unit.builders import gpu, mig_gpu, node

ONE_G = "nvidia.com/mig-1g.5gb"
TRAIN = Holder("research", "train-0", "cuda")
SERVE = Holder("web", "serve-7", "main")

library_openmetrics: Callable[[CollectorRegistry], bytes] = generate_openmetrics

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not on PATH"
)


POD = {"namespace": "research", "pod": "train-0", "container": "cuda"}
NOBODY = {"namespace": "", "pod": "", "container": ""}


CONFIGURATION = Configuration(
    "shared",
    "version: 'v2' is not valid",
    (Waiting("flags.failOnInitError", "true", "false"),),
    3,
    2,
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
        configuration=CONFIGURATION,
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


#: Everything that writes to the cluster, in an outage.
CLUSTER = ClusterStatus(
    requests={("patch", "nodes", "200"): 3, ("list", "nodes", "connection-refused"): 2},
    away_since=900.0,
    labels=31,
    label_writes=2,
    events_sent=7,
    events_dropped=1,
    problems=("Events: no",),
)
PARTITION = Progress(
    State.WAITING,
    "all-balanced",
    Source.COMMAND,
    since=900.0,
    gpus=(
        GpuProgress("GPU-0", 0, GpuState.APPLIED),
        GpuProgress("GPU-1", 1, GpuState.WAITING, trouble=Trouble(TroubleCode.IN_USE, "it waits")),
    ),
    seconds=2.5,
    counts=Counts({"create-gpu-instance": 3}, {"create-gpu-instance": 1}, applied=1),
)


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
        "cluster": CLUSTER,
        "partition": PARTITION,
    }
    return view(NODE, **(given | changes))


def text_of_labels(view: View) -> str:
    return " ".join(value for sample in samples(view) for value in sample.labels.values())
