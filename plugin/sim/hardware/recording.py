"""GPUs as a recording has them: what ``devices --output json`` or ``/api/v1/state`` of a real node
showed. What it lacks comes from the card tables or from arithmetic, and is noted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.inventory.model import Engines, Placement
from plugin.core.inventory.profiles import Profile, memory_gb
from plugin.core.quote import quote
from plugin.core.reasons import Code
from plugin.errors import SimulationError
from plugin.sim.hardware.cards import Card, CardProfile, canonical, catalog
from plugin.sim.hardware.files import CONTROL_NODES
from plugin.sim.hardware.geometry import MAX_GPUS
from plugin.sim.hardware.gpu import ComputeInstance, GpuInstance, GpuState, instance_id, new_gpu
from plugin.sim.hardware.placement import compute_placements

_Json = Mapping[str, Any]

_UUID = re.compile(r"[A-Za-z0-9-]{1,79}")
_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_EIGHT, _SEVEN = 8, 7
#: A table of another product stands in when its memory differs by no more than this share.
_LIKE = 0.03
_ARCHITECTURES = {7: "turing", 8: "ampere", 9: "hopper"}
#: Profile ids and NVML's indices of those that only a recording knows, beyond all real ids.
_FIRST_ID = 64

#: Beyond these nothing is a card's: a TiB of memory, and what NVML's structures have room for.
_MOST_MIB = 2**20
_MOST_DEVICE_ID = 0xFFFFFFFF
_MOST_CHARACTERS = 79


class Recording(Struct, frozen=True):
    """``versions`` are driver, NVML and CUDA (empty and 0 where not recorded); ``missing`` paths of
    files that were not there; ``lost`` positions of GPUs that did not answer; ``notes`` what is not
    as on the recorded node, a sentence each.
    """

    gpus: tuple[GpuState, ...]
    versions: tuple[str, str, int]
    missing: frozenset[str]
    lost: tuple[int, ...]
    notes: tuple[str, ...]


def read(document: _Json, name: str) -> Recording:
    """Raises :class:`SimulationError` naming what the document lacks."""
    try:
        return _read(document, name)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else quote(str(error))
        raise SimulationError(
            f"{name} is no recording: {what}",
            "record one with mig-device-plugin devices --output json",
        ) from error


def _read(document: _Json, name: str) -> Recording:
    told: Sequence[_Json] = document["gpus"]
    if not 0 < len(told) <= MAX_GPUS:
        raise ValueError(f"{len(told)} GPUs; 1 to {MAX_GPUS} can be simulated")
    notes: list[str] = []
    gpus = tuple(_gpu(gpu, position, name, notes) for position, gpu in enumerate(told))
    devices = [device for gpu in told for device in (gpu, *gpu["migDevices"])]
    uuids = [device["uuid"] for device in devices]
    if len(set(uuids)) < len(uuids):
        raise ValueError("a UUID is there twice")
    codes = {reason["code"] for device in devices for reason in device["reasons"]}
    if others := sorted(codes - {Code.GPU_LOST, Code.MISSING_NODE, Code.WITHHELD}):
        notes.append(
            f"reasons of unhealthy devices are not replayed: {', '.join(map(str, others))}; "
            "send them with sim commands"
        )
    driver = document["driver"]
    major, _, minor = (driver["cuda"] or "0.0").partition(".")
    missing = {_text(path) for device in devices for path in device["missingNodes"]}
    missing |= set(CONTROL_NODES) - set(document["controlNodes"])
    return Recording(
        gpus,
        (
            _text(driver["version"] or ""),
            _text(driver["nvml"] or ""),
            1000 * _int(int(major)) + 10 * _int(int(minor)),
        ),
        frozenset(missing),
        tuple(
            position
            for position, gpu in enumerate(told)
            if any(reason["code"] == Code.GPU_LOST for reason in gpu["reasons"])
        ),
        tuple(notes),
    )


def _gpu(told: _Json, position: int, name: str, notes: list[str]) -> GpuState:
    title = f"GPU {position} ({quote(_text(told['product']))})"
    if told["index"] != position:
        notes.append(f"{title} had index {told['index']}: GPUs are numbered without gaps")
    card = _card(told, title, notes)
    state = new_gpu(name, position, card, None if told["numa"] is None else _int(told["numa"]))
    if told["pciBusId"]:
        state = replace(state, pci_bus_id=_matching(_BUS_ID, told["pciBusId"]))
    minor = None if told["minor"] is None else _int(told["minor"], MAX_GPUS - 1)
    mig = told["mig"] or {"current": False, "pending": False}
    state = replace(
        state,
        uuid=_matching(_UUID, told["uuid"]),
        recorded_minor=minor,
        mig=mig["current"] is True,
        mig_pending=mig["pending"] is True,
    )
    by_instance: dict[int, list[_Json]] = {}
    for device in told["migDevices"]:
        by_instance.setdefault(_int(device["gi"]), []).append(device)
    for gi, devices in sorted(by_instance.items()):
        state = _with_instance(state, gi, devices, title, notes)
    for instance in told.get("emptyInstances", ()):  # earlier versions did not record them
        state = _with_empty_instance(state, instance, title, notes)
    if [slot.index for slot in state.devices()] != [
        device["index"] for device in sorted(told["migDevices"], key=lambda d: (d["gi"], d["ci"]))
    ]:
        notes.append(f"MIG devices of {title} are numbered anew")
    return state


def _with_instance(
    gpu: GpuState, gi: int, devices: Sequence[_Json], title: str, notes: list[str]
) -> GpuState:
    what = f"GPU instance {gi} of {title}"
    parsed = Profile.parse(canonical(devices[0]["profile"] or ""))
    if parsed is None:
        notes.append(f"{what} is left out, for its profile was not recorded")
        return gpu
    whole = str(Profile(parsed.gi_slices, parsed.gi_slices, parsed.memory_gb, parsed.attribute))
    profile = gpu.card.profile(whole)
    taken = [instance.placement for instance in gpu.instances]
    at = devices[0]["placement"]
    choices = (
        [Placement(_int(at["start"]), _int(at["size"]))]
        if at
        else sorted(profile.placements, key=lambda p: instance_id(gpu.card, p) != gi)
    )
    placement = next((p for p in choices if not any(p.overlaps(q) for q in taken)), None)
    if placement is None or placement.end > gpu.card.memory_slices or placement.start < 0:
        notes.append(f"{what} is left out, for there is no place for it")
        return gpu
    if not at:
        notes.append(f"where {what} lies was not recorded; it is put at {placement.start}")
    compute: list[ComputeInstance] = []
    for device in sorted(devices, key=lambda each: _int(each["ci"])):
        of = Profile.parse(canonical(device["profile"] or ""))
        room = [
            p
            for p in (compute_placements(profile, of.ci_slices) if of else ())
            if not any(p.overlaps(other.placement) for other in compute)
        ]
        if not room:
            notes.append(f"compute instance {device['ci']} of {what} is left out: no room for it")
            continue
        uuid = _matching(_UUID, device["uuid"])
        compute.append(ComputeInstance(_int(device["ci"]), room[0], uuid))
    first = devices[0]
    if parsed.ci_slices and first["multiprocessors"]:
        multiprocessors = _int(first["multiprocessors"]) * profile.slices // parsed.ci_slices
        profile = replace(profile, multiprocessors=multiprocessors)
    if first["memoryMiB"]:
        profile = replace(profile, memory_mib=_int(first["memoryMiB"], _MOST_MIB))
    return gpu.with_instance(GpuInstance(gi, profile, placement, tuple(compute)))


def _with_empty_instance(gpu: GpuState, told: _Json, title: str, notes: list[str]) -> GpuState:
    gi, at = _int(told["gi"]), told["placement"]
    placement = Placement(_int(at["start"]), _int(at["size"]))
    name = canonical(told["profile"] or "")
    profile = next((each for each in gpu.card.profiles if each.name == name), None)
    overlaps = any(placement.overlaps(instance.placement) for instance in gpu.instances)
    if profile is None or overlaps or placement.end > gpu.card.memory_slices:
        notes.append(f"empty GPU instance {gi} of {title} is left out: its profile has no place")
        return gpu
    return gpu.with_instance(GpuInstance(gi, profile, placement, ()))


# ---- the card


def _card(told: _Json, title: str, notes: list[str]) -> Card:
    """The card of the tables that is called so, or is like it; else one made of what is recorded.
    Product, memory, PCI id and the profiles in use are always those recorded.
    """
    memory = _int(told["memoryMiB"], _MOST_MIB) << 20
    major, _, minor = (told["computeCapability"] or "0.0").partition(".")
    capability = _int(int(major)), _int(int(minor))
    known = catalog().cards.values()
    exact = [card for card in known if card.product == told["product"]]
    alike = [
        card
        for card in known
        if card.compute_capability == capability
        and abs(card.memory_bytes - memory) <= _LIKE * memory
        and (not told["memorySlices"] or card.memory_slices == told["memorySlices"])
    ]
    if exact:
        card = exact[0]
    elif alike:
        card = alike[0]
        notes.append(f"{title} is in no table; what was not recorded is that of {card.product}")
    else:
        card = _computed(told, capability)
        notes.append(f"{title} is in no table; what was not recorded is computed")
    card = replace(
        card,
        product=_text(told["product"]),
        memory_bytes=memory or card.memory_bytes,
        pci_device_id=_int(
            int(told.get("pciDeviceId") or hex(card.pci_device_id), 16), _MOST_DEVICE_ID
        ),
        profiles=card.profiles if told["mig"] else (),
    )
    return _with_recorded_profiles(card, told, title, notes)


def _computed(told: _Json, capability: tuple[int, int]) -> Card:
    slices = _int(told["memorySlices"] or _EIGHT) or _EIGHT
    compute = _SEVEN if slices == _EIGHT else slices
    card = Card(
        key="recorded",
        product=_text(told["product"]),
        pci_device_id=0,
        memory_bytes=_int(told["memoryMiB"], _MOST_MIB) << 20,
        compute_capability=capability,
        architecture=_ARCHITECTURES.get(capability[0], "blackwell"),
        compute_slices=compute,
        memory_slices=slices,
        profiles=(),
    )
    memory = _int(told["memoryMiB"], _MOST_MIB)
    name = str(Profile(compute, compute, memory_gb(memory, memory)))
    return replace(card, profiles=(_profile(card, name, slices, memory, 0),))


def _with_recorded_profiles(card: Card, told: _Json, title: str, notes: list[str]) -> Card:
    for device in told["migDevices"]:
        parsed = Profile.parse(canonical(device["profile"] or ""))
        if parsed is None:
            continue
        name = str(Profile(parsed.gi_slices, parsed.gi_slices, parsed.memory_gb, parsed.attribute))
        if any(profile.name == name for profile in card.profiles):
            continue
        at = device["placement"]
        memory = _int(device["memoryMiB"], _MOST_MIB)
        share = memory / max(1, card.memory_bytes >> 20)
        size = _int(at["size"]) if at else max(1, round(share * card.memory_slices))
        if not 0 < size <= card.memory_slices:
            raise ValueError(f"a placement of {size} slices")
        made = _profile(card, name, size, memory, len(card.profiles))
        card = replace(card, profiles=(*card.profiles, made))
        notes.append(f"profile {name} of {title} is in no table; where it can lie is computed")
    return card


def _profile(card: Card, name: str, size: int, memory_mib: int, number: int) -> CardProfile:
    """One that lies at every multiple of its size."""
    parsed = Profile.parse(name)
    slices = parsed.gi_slices if parsed else 1
    places = tuple(
        Placement(start, size) for start in range(0, card.memory_slices - size + 1, size)
    )
    used = {profile.nvml_index for profile in card.profiles}
    return CardProfile(
        name=name,
        id=_FIRST_ID + number,
        nvml_index=next(index for index in range(len(used) + 1) if index not in used),
        slices=slices,
        max_instances=max(1, min(len(places), card.compute_slices // max(1, slices))),
        memory_mib=memory_mib,
        multiprocessors=slices,
        engines=Engines(copy=slices),
        placements=places,
        compute_slices=tuple(range(1, slices + 1)),
    )


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"bad identity {value}")
    return str(value)


def _int(value: Any, most: int = 0xFFFF) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value} is not a number from 0 to {most}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or not value.isascii():
        raise ValueError(f"{value} is not a short text")
    return value
