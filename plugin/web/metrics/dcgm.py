"""The same values under dcgm-exporter's names and labels, for existing dashboards.

A card's values appear once per card, not once per instance, so sums over instances are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import Metric

from plugin.core.inventory.model import Gpu, MigDevice
from plugin.core.inventory.samples import DeviceSample
from plugin.web.metrics.family import Family, Kind, Labels, Reading, read
from plugin.web.metrics.subjects import HOLDER, Card, Subject, holder_labels

_CARD = (
    "gpu",
    "UUID",
    "pci_bus_id",
    "device",
    "modelName",
    "Hostname",
    "hostname",
    "DCGM_FI_DRIVER_VERSION",
    *HOLDER,
)
_INSTANCE = (*_CARD, "GPU_I_PROFILE", "GPU_I_ID", "GPU_I_CI_ID")


def _instance(name: str, meaning: str, kind: Kind = Kind.GAUGE) -> Family:
    return Family(name, kind, meaning, _INSTANCE)


def _card(name: str, meaning: str, kind: Kind = Kind.GAUGE) -> Family:
    return Family(name, kind, meaning, _CARD)


def _share(sample: DeviceSample) -> float | None:
    """As DCGM counts it: what is reserved can be used by nobody."""
    if sample.memory_used is None or sample.memory_total is None:
        return None
    usable = sample.memory_total - (sample.memory_reserved or 0)
    return round(sample.memory_used / usable, 6) if usable > 0 else None


INSTANCES: tuple[Reading[DeviceSample], ...] = (
    (_instance("DCGM_FI_DEV_FB_USED", "Memory in use, MiB"), lambda s: _mebibytes(s.memory_used)),
    (_instance("DCGM_FI_DEV_FB_FREE", "Memory free, MiB"), lambda s: _mebibytes(s.memory_free)),
    (
        _instance("DCGM_FI_DEV_FB_RESERVED", "Memory the driver keeps, MiB"),
        lambda s: _mebibytes(s.memory_reserved),
    ),
    (_instance("DCGM_FI_DEV_FB_TOTAL", "Memory, MiB"), lambda s: _mebibytes(s.memory_total)),
    (
        _instance(
            "DCGM_FI_DEV_FB_USED_PERCENT", "Share of the memory that is not reserved in use, 0 to 1"
        ),
        _share,
    ),
    (
        _instance(
            "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
            "Corrected ECC errors since the driver was loaded",
            Kind.UNKNOWN,
        ),
        lambda s: s.ecc_corrected,
    ),
    (
        _instance(
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
            "Uncorrected ECC errors since the driver was loaded; of MIG devices those of SRAM",
            Kind.UNKNOWN,
        ),
        lambda s: s.ecc_uncorrected,
    ),
    (
        _instance(
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Share of time the compute or graphics engine worked"
        ),
        lambda s: s.activity.graphics_active,
    ),
    (
        _instance("DCGM_FI_PROF_SM_ACTIVE", "Share of time a multiprocessor had work"),
        lambda s: s.activity.sm_active,
    ),
    (
        _instance("DCGM_FI_PROF_SM_OCCUPANCY", "Warps resident, of the most possible"),
        lambda s: s.activity.sm_occupancy,
    ),
    (
        _instance("DCGM_FI_PROF_DRAM_ACTIVE", "Share of time memory moved data"),
        lambda s: s.activity.dram_active,
    ),
    (
        _instance("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Share of time the tensor pipe worked"),
        lambda s: s.activity.tensor_active,
    ),
)

#: Counters without ``_total`` have kind unknown, which ``rate()`` accepts.
CARDS: tuple[Reading[Card], ...] = (
    (_card("DCGM_FI_DEV_GPU_UTIL", "Utilisation, %"), lambda c: _scaled(c.sample.utilisation, 100)),
    (
        _card("DCGM_FI_DEV_MEM_COPY_UTIL", "Utilisation of the memory's bandwidth, %"),
        lambda c: _scaled(c.sample.memory_utilisation, 100),
    ),
    (_card("DCGM_FI_DEV_GPU_TEMP", "Temperature, degrees Celsius"), lambda c: c.sample.temperature),
    (_card("DCGM_FI_DEV_POWER_USAGE", "Power, W"), lambda c: c.sample.power),
    (
        _card("DCGM_FI_DEV_SM_CLOCK", "Clock of the multiprocessors, MHz"),
        lambda c: _scaled(c.sample.sm_clock, 1e-6),
    ),
    (
        _card("DCGM_FI_DEV_MEM_CLOCK", "Clock of the memory, MHz"),
        lambda c: _scaled(c.sample.memory_clock, 1e-6),
    ),
    (
        _card(
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            "Energy since the driver was loaded, mJ",
            Kind.UNKNOWN,
        ),
        lambda c: _scaled(c.sample.energy, 1e3),
    ),
    (
        _card(
            "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
            "Uncorrected ECC errors in the card's life",
            Kind.UNKNOWN,
        ),
        lambda c: c.sample.ecc_uncorrected,
    ),
    (
        _card("DCGM_FI_DEV_ROW_REMAP_PENDING", "Whether rows wait for a reset to be remapped"),
        lambda c: c.sample.remap_pending,
    ),
    (
        _card("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping a row has ever failed"),
        lambda c: c.remap_failure,
    ),
    (
        _card(
            "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
            "Rows remapped for correctable errors",
            Kind.UNKNOWN,
        ),
        lambda c: c.sample.remapped_correctable,
    ),
    (
        _card(
            "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
            "Rows remapped for uncorrectable errors",
            Kind.UNKNOWN,
        ),
        lambda c: c.sample.remapped_uncorrectable,
    ),
)


def _latest_xid(on_card: Sequence[Subject]) -> int:
    latest = max(
        (s.entry for s in on_card if s.entry.xids),
        key=lambda entry: entry.last_fault or 0.0,
        default=None,
    )
    return next(reversed(list(latest.xids))) if latest is not None else 0


#: The XID of the latest fault among everything on the card.
XID: Reading[Sequence[Subject]] = (
    _card(
        "DCGM_FI_DEV_XID_ERRORS",
        "The latest XID of the card or of an instance on it; 0 when there was none",
    ),
    _latest_xid,
)

FAMILIES: tuple[Family, ...] = tuple(
    [family for family, _ in INSTANCES] + [family for family, _ in CARDS] + [XID[0]],
)


def collect(
    devices: Sequence[Subject], gpus: Sequence[Card], *, driver: str, hostname: str
) -> Iterator[Metric]:
    """Every family that has a value."""
    own = {card.gpu.uuid: _own_labels(card.gpu, driver, hostname) for card in gpus}
    yield from read(
        INSTANCES,
        [
            ({**own[s.gpu.uuid], **_instance_labels(s)}, s.sample)
            for s in devices
            if s.sample is not None
        ],
    )
    holders = {s.device.uuid: holder_labels(s.holders if s.allocatable else ()) for s in devices}
    labels = {uuid: {**known, **holders[uuid]} for uuid, known in own.items()}
    yield from read(CARDS, [(labels[card.gpu.uuid], card) for card in gpus])
    yield from read(
        [XID], [(labels[c.gpu.uuid], [s for s in devices if s.gpu is c.gpu]) for c in gpus]
    )


def _own_labels(gpu: Gpu, driver: str, hostname: str) -> Labels:
    return {
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": _bus_id(gpu.pci_bus_id),
        "device": f"nvidia{gpu.index if gpu.minor is None else gpu.minor}",
        "modelName": gpu.product,
        # dcgm-exporter uses both spellings in different series, and dashboards use both.
        "Hostname": hostname,
        "hostname": hostname,
        "DCGM_FI_DRIVER_VERSION": driver,
    }


def _instance_labels(subject: Subject) -> Labels:
    """``GPU_I_CI_ID`` is our addition: without it compute instances of one GPU instance share a
    series.
    """
    instance = subject.device if isinstance(subject.device, MigDevice) else None
    return {
        "GPU_I_PROFILE": instance.profile if instance else "",
        "GPU_I_ID": str(instance.gi) if instance else "",
        "GPU_I_CI_ID": str(instance.ci) if instance else "",
        **holder_labels(subject.holders),
    }


def _bus_id(sysfs: str) -> str:
    """From ``0000:0f:00.0`` to NVML's ``00000000:0F:00.0``."""
    domain, colon, rest = sysfs.partition(":")
    return f"{domain:0>8}{colon}{rest}".upper() if colon else sysfs


def _mebibytes(count: int | None) -> int | None:
    return None if count is None else count >> 20


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
