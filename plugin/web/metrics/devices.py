"""Metrics of devices and of the cards they are on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric

from plugin.core.inventory.model import Gpu
from plugin.core.inventory.samples import DeviceSample
from plugin.core.reasons import Code
from plugin.web.metrics.family import Family, Labels, Reading, counter, filled, gauge, info, read
from plugin.web.metrics.subjects import CARD, DEVICE, HOLDER, IDENTITY, Card, Subject

HEALTHY = gauge("device_healthy", "Whether a device is offered as healthy (1) or not (0)", DEVICE)
REASON = gauge(
    "device_unhealthy_reason", "1 for each reason why a device is not healthy", (*DEVICE, "reason")
)
ALLOCATED = gauge(
    "device_allocated", "1 for each container that holds a device", (*IDENTITY, *HOLDER)
)

HISTORY: tuple[Reading[Subject], ...] = (
    (
        gauge(
            "device_cordoned", "Whether an operator has cordoned the device or its GPU", IDENTITY
        ),
        lambda s: any(entry.reason(Code.CORDONED) is not None for entry in (s.entry, s.of_gpu)),
    ),
    (
        counter(
            "device_recoveries_total",
            "How often a device came back by itself after faults",
            IDENTITY,
        ),
        lambda s: s.entry.recoveries,
    ),
    (
        gauge(
            "device_last_fault_timestamp_seconds", "When a device had its latest fault", IDENTITY
        ),
        lambda s: s.entry.last_fault,
    ),
)

XIDS = counter("device_xid_errors_total", "XIDs of a device", (*IDENTITY, "xid"))

USE: tuple[Reading[DeviceSample], ...] = (
    (gauge("device_memory_total_bytes", "Memory of a device", DEVICE), lambda s: s.memory_total),
    (gauge("device_memory_used_bytes", "Memory that is in use", DEVICE), lambda s: s.memory_used),
    (
        gauge("device_memory_free_bytes", "Memory that can be allocated", DEVICE),
        lambda s: s.memory_free,
    ),
    (
        gauge("device_memory_reserved_bytes", "Memory that the driver keeps", DEVICE),
        lambda s: s.memory_reserved,
    ),
    (
        gauge("device_processes", "Processes that have a context on a device", DEVICE),
        lambda s: s.processes,
    ),
    (
        gauge(
            "device_sm_active_ratio",
            "Share of time that a multiprocessor had work, averaged over them",
            DEVICE,
        ),
        lambda s: s.activity.sm_active,
    ),
    (
        gauge(
            "device_sm_occupancy_ratio",
            "Warps resident on multiprocessors, of the most possible",
            DEVICE,
        ),
        lambda s: s.activity.sm_occupancy,
    ),
    (
        gauge("device_tensor_active_ratio", "Share of time that the tensor pipe worked", DEVICE),
        lambda s: s.activity.tensor_active,
    ),
    (
        gauge("device_dram_active_ratio", "Share of time that memory moved data", DEVICE),
        lambda s: s.activity.dram_active,
    ),
    (
        gauge(
            "device_graphics_active_ratio",
            "Share of time that the compute or graphics engine worked",
            DEVICE,
        ),
        lambda s: s.activity.graphics_active,
    ),
)

DEVICE_ECC = counter(
    "device_ecc_errors_total",
    "ECC errors of a device since the driver was loaded",
    (*DEVICE, "type"),
)


def of_devices(devices: tuple[Subject, ...]) -> Iterator[Metric]:
    statuses = [
        (s.device_labels, s.status) for s in devices if s.allocatable and s.status is not None
    ]
    yield from filled(
        HEALTHY, [(labels, status.health == "healthy") for labels, status in statuses]
    )
    yield from filled(
        REASON,
        [
            ({**labels, "reason": code}, 1)
            for labels, status in statuses
            for code in dict.fromkeys(str(reason.code) for reason in status.reasons)
        ],
    )
    yield from filled(
        ALLOCATED,
        [
            (
                {
                    **s.identity,
                    "namespace": holder.namespace,
                    "pod": holder.pod,
                    "container": holder.container,
                },
                1,
            )
            for s in devices
            if s.allocatable
            for holder in s.holders
        ],
    )
    yield from read(HISTORY, [(s.identity, s) for s in devices])
    yield from filled(
        XIDS,
        [
            ({**s.identity, "xid": str(xid)}, count)
            for s in devices
            for xid, count in s.entry.xids.items()
        ],
    )
    samples = [(s.device_labels, s.sample) for s in devices if s.sample is not None]
    yield from read(USE, samples)
    yield from filled(
        DEVICE_ECC,
        _by_type(
            (labels, sample.ecc_corrected, sample.ecc_uncorrected) for labels, sample in samples
        ),
    )


def _by_type(
    counts: Iterable[tuple[Labels, int | None, int | None]],
) -> Iterator[tuple[Labels, float]]:
    for labels, corrected, uncorrected in counts:
        if corrected is not None:
            yield {**labels, "type": "corrected"}, corrected
        if uncorrected is not None:
            yield {**labels, "type": "uncorrected"}, uncorrected


# ---- cards

GPU = info("gpu_info", "What card it is", (*CARD, "product", "pci_bus_id"))

CARDS: tuple[Reading[Card], ...] = (
    (
        gauge("gpu_memory_slices", "Memory slices of the card", CARD),
        lambda c: c.gpu.memory_slices or None,
    ),
    (
        gauge("gpu_memory_slices_free", "Memory slices in no GPU instance", CARD),
        lambda c: _count_free(c.gpu),
    ),
    (gauge("gpu_power_watts", "Power drawn", CARD), lambda c: c.sample.power),
    (gauge("gpu_temperature_celsius", "Temperature", CARD), lambda c: c.sample.temperature),
    (
        gauge("gpu_sm_clock_hertz", "Clock of the multiprocessors", CARD),
        lambda c: c.sample.sm_clock,
    ),
    (gauge("gpu_memory_clock_hertz", "Clock of the memory", CARD), lambda c: c.sample.memory_clock),
    (
        gauge(
            "gpu_utilization_ratio",
            "Share of time that a kernel ran; drivers do not say under MIG",
            CARD,
        ),
        lambda c: c.sample.utilisation,
    ),
    (
        gauge(
            "gpu_memory_utilization_ratio", "Share of time that memory was read or written", CARD
        ),
        lambda c: c.sample.memory_utilisation,
    ),
    (
        counter("gpu_energy_joules_total", "Energy since the driver was loaded", CARD),
        lambda c: c.sample.energy,
    ),
    (
        gauge("gpu_row_remap_pending", "Whether rows wait for a reset to be remapped", CARD),
        lambda c: c.sample.remap_pending,
    ),
    (
        gauge("gpu_row_remap_failure", "Whether remapping a row has ever failed", CARD),
        lambda c: c.remap_failure,
    ),
    (
        gauge(
            "gpu_page_retirement_pending",
            "Whether memory pages wait for a reset to be retired (before Ampere)",
            CARD,
        ),
        lambda c: c.probe.retirement_pending,
    ),
    (
        gauge(
            "gpu_recovery_action",
            "What the driver asks for: 0 nothing, 1 GPU reset, 2 node reboot, …",
            CARD,
        ),
        lambda c: c.probe.recovery_action,
    ),
)

REMAPPED = gauge("gpu_remapped_rows", "Memory rows remapped in the card's life", (*CARD, "type"))
CARD_ECC = counter("gpu_ecc_errors_total", "ECC errors in the card's life", (*CARD, "type"))


def _count_free(gpu: Gpu) -> int | None:
    free = gpu.free_slices()
    return None if free is None else len(free)


def of_cards(gpus: tuple[Card, ...]) -> Iterator[Metric]:
    yield from filled(
        GPU,
        [({**c.labels, "product": c.gpu.product, "pci_bus_id": c.gpu.pci_bus_id}, 1) for c in gpus],
    )
    yield from read(CARDS, [(c.labels, c) for c in gpus])
    yield from filled(
        REMAPPED,
        [
            ({**c.labels, "type": kind}, rows)
            for c in gpus
            for kind, rows in (
                ("correctable", c.sample.remapped_correctable),
                ("uncorrectable", c.sample.remapped_uncorrectable),
            )
            if rows is not None
        ],
    )
    yield from filled(
        CARD_ECC,
        _by_type((c.labels, c.sample.ecc_corrected, c.sample.ecc_uncorrected) for c in gpus),
    )


#: In scrape order.
FAMILIES: tuple[Family, ...] = (
    HEALTHY,
    REASON,
    ALLOCATED,
    *(family for family, _ in HISTORY),
    XIDS,
    *(family for family, _ in USE),
    DEVICE_ECC,
    GPU,
    *(family for family, _ in CARDS),
    REMAPPED,
    CARD_ECC,
)
