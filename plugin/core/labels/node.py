"""The node labels of GPU Feature Discovery, as a function of the snapshot that is advertised.

Keys and values are those of NVIDIA's program (0.20). What cannot be known has no label: an unread
product, a driver version of another form. Three labels of that program are left out:
``gfd.timestamp``, which changes by itself, and ``vgpu.host-driver-*`` and ``gpu.clique``, which
are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from plugin.core.inventory.model import Gpu, Inventory, MigDevice
from plugin.core.inventory.profiles import GPU_RESOURCE, RESOURCE_PREFIX, resource_name
from plugin.core.labels.grammar import clean, valid
from plugin.core.labels.products import Shares, family, product
from plugin.core.settings import MigStrategy
from plugin.core.state import Snapshot

COUNT = ".count"
PRODUCT = f"{GPU_RESOURCE}.product"
_UNKNOWN = "unknown"
#: By PCI class: VGA controllers and 3D controllers.
_MODES = {0x030000: "graphics", 0x030200: "compute"}
#: ``X.Y`` or ``X.Y.Z``, as drivers number themselves.
_DRIVER_VERSION = re.compile(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", re.ASCII)
#: How a guest's vGPU is named: the board, its memory and the series (``GRID T4-16Q``,
#: ``NVIDIA A100-1-5C``). No physical card is.
_VGPU = re.compile(r"(?:NVIDIA|GRID) \S.*-[0-9]+[ABCQ](?:ME|NOME|MEALL|GFX)?", re.ASCII)

Values = Mapping[str, str]
_Found = Iterator[tuple[str, str]]


class Labels(Struct, frozen=True):
    """``values`` are what is known, in order. Unless ``complete``, a GPU has not answered since the
    start, so that devices may be missing from the counts.
    """

    values: Values
    complete: bool = True


def labels(snapshot: Snapshot) -> Labels | None:
    """The labels; ``None`` while no scan has told what is on the node."""
    if not snapshot.geometry:
        return None
    inventory = snapshot.inventory
    if not inventory.gpus:
        return Labels({}, complete=not inventory.unreadable)
    found = {
        **dict(_versions(inventory)),
        **dict(_about_machine(inventory)),
        **dict(_about_gpus(snapshot)),
        **dict(_about_mig(snapshot)),
    }
    return Labels(dict(valid(found)), complete=not _is_silent(inventory))


def _is_silent(inventory: Inventory) -> bool:
    """Whether there is a GPU of which nothing, or not even its MIG mode, was ever read."""
    known = {gpu.index for gpu in inventory.gpus}
    return not inventory.unreadable.keys() <= known or any(
        not gpu.mig_certain for gpu in inventory.gpus
    )


# ---- the node


def _versions(inventory: Inventory) -> _Found:
    cuda = f"{RESOURCE_PREFIX}cuda"
    if version := _DRIVER_VERSION.fullmatch(inventory.driver_version):
        yield f"{cuda}.driver-version.full", inventory.driver_version
        # The names without -version are deprecated.
        for name, third in (("driver-version", "revision"), ("driver", "rev")):
            yield f"{cuda}.{name}.major", version[1]
            yield f"{cuda}.{name}.minor", version[2]
            yield f"{cuda}.{name}.{third}", version[3] or ""
    if inventory.cuda_version is not None:
        major, minor = inventory.cuda_version
        yield f"{cuda}.runtime-version.full", f"{major}.{minor}"
        for name in ("runtime-version", "runtime"):
            yield f"{cuda}.{name}.major", str(major)
            yield f"{cuda}.{name}.minor", str(minor)


def _about_machine(inventory: Inventory) -> _Found:
    gpus = inventory.gpus
    yield f"{GPU_RESOURCE}.machine", clean(inventory.machine) or _UNKNOWN
    modes = {_MODES.get(gpu.pci_class) for gpu in gpus if gpu.pci_class is not None}
    yield f"{GPU_RESOURCE}.mode", (modes.pop() if len(modes) == 1 else None) or _UNKNOWN
    yield f"{RESOURCE_PREFIX}mps.capable", "false"
    guest = any(_VGPU.fullmatch(gpu.product) for gpu in gpus)
    yield f"{RESOURCE_PREFIX}vgpu.present", "true" if guest else "false"
    if any(gpu.mig is not None for gpu in gpus):
        yield f"{RESOURCE_PREFIX}mig.capable", "true"
    elif not _is_silent(inventory):
        yield f"{RESOURCE_PREFIX}mig.capable", "false"


# ---- GPUs


def _about_gpus(snapshot: Snapshot) -> _Found:
    """The node's GPUs. Of several products, that of the first GPU without MIG is described, else
    that of the first GPU.
    """
    gpus = snapshot.inventory.gpus
    whole = [gpu for gpu in gpus if not _has_mig_on(gpu)]
    named = next((gpu.product for gpu in (*whole, *gpus) if gpu.product), "")
    # One whose name could not be read is most likely like the others, if these are all alike.
    alike = len({gpu.product for gpu in gpus if gpu.product}) <= 1
    same = [gpu for gpu in gpus if gpu.product == named or (alike and not gpu.product)]
    shares = Shares.of(snapshot, [gpu for gpu in same if gpu in whole])
    # NVIDIA's program does not speak of sharing where every GPU has MIG mode on.
    replicas = shares.replicas if any(gpu in whole for gpu in same) else 0
    yield from _base(GPU_RESOURCE, len(same), replicas)
    if named:
        yield PRODUCT, product(named, shares=shares)
    if memory := next((gpu.memory_mib for gpu in same if gpu.memory_mib), 0):
        yield f"{GPU_RESOURCE}.memory", str(memory)
    capability = next((gpu.compute_capability for gpu in same if gpu.compute_capability), None)
    if capability is not None:
        yield f"{GPU_RESOURCE}.family", family(*capability)
        yield f"{GPU_RESOURCE}.compute.major", str(capability[0])
        yield f"{GPU_RESOURCE}.compute.minor", str(capability[1])


def _has_mig_on(gpu: Gpu) -> bool:
    return gpu.mig_enabled or bool(gpu.mig_devices)


def _base(resource: str, count: int, replicas: int) -> _Found:
    yield f"{resource}{COUNT}", str(count)
    yield f"{resource}.replicas", str(replicas)
    yield f"{resource}.sharing-strategy", "time-slicing" if replicas > 1 else "none"


# ---- MIG devices


def _about_mig(snapshot: Snapshot) -> _Found:
    strategy = snapshot.settings.mig_strategy
    if strategy is MigStrategy.NONE:
        return
    yield f"{RESOURCE_PREFIX}mig.strategy", strategy.value
    carriers = [gpu for gpu in snapshot.inventory.gpus if _has_mig_on(gpu)]
    profiles: dict[str, list[MigDevice]] = {}
    for gpu in carriers:
        for device in gpu.mig_devices:
            if device.profile:
                profiles.setdefault(device.profile, []).append(device)
    if strategy is MigStrategy.MIXED:
        for profile, devices in profiles.items():
            yield from _group(snapshot, resource_name(profile), devices)
    elif carriers:
        yield from _single(snapshot, carriers, profiles)


def _single(
    snapshot: Snapshot, carriers: Sequence[Gpu], profiles: Mapping[str, Sequence[MigDevice]]
) -> _Found:
    """``gpu.*`` describes the MIG devices, whatever the name under which they are advertised."""
    invalid = snapshot.advertisement.violation is not None or not any(
        gpu.mig_devices for gpu in carriers
    )
    if profiles and not invalid:
        yield from _group(snapshot, GPU_RESOURCE, next(iter(profiles.values())))
        return
    yield from _base(GPU_RESOURCE, 0, 0)
    yield f"{GPU_RESOURCE}.memory", "0"
    model = next((gpu.product for gpu in carriers if gpu.product), "")
    # Devices whose profile could not be read break no rule, and are of no known product.
    yield PRODUCT, product(model, "INVALID") if model and invalid else ""


def _group(snapshot: Snapshot, resource: str, devices: Sequence[MigDevice]) -> _Found:
    """The devices of one profile."""
    shares = Shares.of(snapshot, devices)
    yield from _base(resource, len(devices), shares.replicas)
    device = next((each for each in devices if not each.error), devices[0])
    parent = snapshot.inventory.gpu(device.gpu_uuid)
    model = parent.product if parent is not None else ""
    profile = device.profile.replace("+", ".")
    # Empty where the model is not known, so that the whole GPU's product is not left there.
    yield f"{resource}.product", product(model, profile, shares) if model else ""
    engines = device.engines
    for name, value in (
        ("memory", device.memory_mib),
        ("multiprocessors", device.multiprocessors),
        ("slices.gi", device.gi_slices),
        ("slices.ci", device.ci_slices),
        ("engines.copy", engines.copy),
        ("engines.decoder", engines.decoder),
        ("engines.encoder", engines.encoder),
        ("engines.jpeg", engines.jpeg),
        ("engines.ofa", engines.ofa),
    ):
        yield f"{resource}.{name}", str(value)
