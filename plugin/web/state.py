"""The node's state as JSON for ``/api/v1/state``: the document of ``devices`` with kubelet, pods
and utilisation.

Contains no time of rendering, so the same state gives the same bytes. Schema:
``state.schema.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

import plugin
from plugin.core import status
from plugin.core.advertise.listed import Listed, device_uuid
from plugin.core.inventory.model import Gpu, MigDevice
from plugin.core.inventory.profiles import Profile
from plugin.core.inventory.samples import DeviceSample
from plugin.core.reasons import Code
from plugin.core.view import Holder, ResourceStatus, View
from plugin.web.health import Verdict, health, readiness

#: Eight memory slices come with seven compute slices; otherwise the numbers are equal.
_EIGHT, _SEVEN = 8, 7

_Json = dict[str, Any]


def still(view: View) -> View:
    """The view reduced to what the document shows: equal views give equal documents."""
    # Rounded to tens, so that a driver call does not change the state constantly.
    return replace(
        view,
        now=0.0,
        geometry=0,
        calls=MappingProxyType({}),
        driver_busy=view.driver_busy // 10 * 10,
        sampling=True,
    )


def document(view: View, hostname: str = "") -> _Json:
    """A function of :func:`still` of the view. See docs/api.md."""
    view = still(view)
    snapshot = view.snapshot
    state = status.document(snapshot, "daemon")
    known = {gpu.uuid: gpu for gpu in snapshot.inventory.gpus}
    holders = _by_device(view.holders or {})
    for gpu in state["gpus"]:
        _complete(gpu, holders, view)
        gpu["freeRuns"] = _free_runs(known[gpu["uuid"]])
        for device in gpu["migDevices"]:
            _complete(device, holders, view)
    return {
        "hostname": hostname,
        "version": plugin.__version__,
        "started": view.started,
        "changed": view.changed,
        "health": _verdict(health(view)),
        "readiness": _verdict(readiness(view)),
        **state,
        "driver": {
            **state["driver"],
            "error": snapshot.driver_error.text if snapshot.driver_error else None,
            "busySeconds": int(view.driver_busy // 10 * 10),
        },
        "problems": [*state["problems"], *view.held_twice],
        "partition": _partition(view),
        "allocationsKnown": view.holders_known,
        "sampled": view.samples.time if view.samples else None,
        "resources": _resources(view, state),
        "gone": [
            {"uuid": uuid, "holders": [_holder(*held) for held in who]}
            for uuid, who in sorted(holders.items())
            if snapshot.inventory.device(uuid) is None
        ],
    }


def _partition(view: View) -> _Json | None:
    if view.partition is None:
        return None
    # Loaded by whatever has made the progress.
    from plugin.core.partition.progress import document as progress  # noqa: PLC0415

    return progress(view.partition)


def _complete(device: _Json, holders: Mapping[str, list[tuple[str, Holder]]], view: View) -> None:
    held = holders.get(device["uuid"], [])
    taken = bool(held) or any(device_uuid(name) == device["uuid"] for name in view.handed_out)
    device["state"] = _state(device, known=view.holders_known, held=taken)
    device["holders"] = [_holder(*each) for each in held]
    device["use"] = _use(view.samples.devices.get(device["uuid"])) if view.samples else None


def _state(device: _Json, *, known: bool, held: bool) -> str | None:
    """One word; a fault or cordon outranks an allocation."""
    match device["health"]:
        case "healthy" if held:
            return "allocated"
        case "healthy":
            return "free" if known else "healthy"
        case "unhealthy" if {reason["code"] for reason in device["reasons"]} == {Code.CORDONED}:
            return "cordoned"
        case other:
            return other if other is None else str(other)


def _by_device(holders: Mapping[str, tuple[Holder, ...]]) -> dict[str, list[tuple[str, Holder]]]:
    """UUID → (id, holder), including the ids of replicas."""
    found: dict[str, list[tuple[str, Holder]]] = {}
    for listed, who in sorted(holders.items()):
        found.setdefault(device_uuid(listed), []).extend((listed, holder) for holder in who)
    return found


def _holder(listed: str, holder: Holder) -> _Json:
    return {
        "id": listed,
        "namespace": holder.namespace,
        "pod": holder.pod,
        "container": holder.container,
    }


def _use(sample: DeviceSample | None) -> _Json | None:
    if sample is None:
        return None
    activity = sample.activity
    return {
        "memoryTotalBytes": sample.memory_total,
        "memoryUsedBytes": sample.memory_used,
        "processes": sample.processes,
        "smActive": activity.sm_active,
        "smOccupancy": activity.sm_occupancy,
        "tensorActive": activity.tensor_active,
        "dramActive": activity.dram_active,
    }


def _resources(view: View, state: _Json) -> _Json:
    statuses = {each.resource: each for each in view.resources}
    listed = view.snapshot.advertisement.resources
    states = {
        device["uuid"]: device["state"]
        for gpu in state["gpus"]
        for device in (gpu, *gpu["migDevices"])
    }
    return {
        name: {
            **_counts(listed.get(name, ()), view, states),
            **_kubelet(statuses.get(name)),
        }
        for name in (*listed, *(name for name in statuses if name not in listed))
    }


def _counts(listed: tuple[Listed, ...], view: View, states: Mapping[str, str | None]) -> _Json:
    """Counts of ids; a device's replicas may be partly allocated."""
    held = {name for name, who in (view.holders or {}).items() if who} | view.handed_out
    others = "free" if view.holders_known else "healthy"
    allocated = ("allocated",) if held or view.holders is not None else ()
    found = dict.fromkeys(("unhealthy", "cordoned", *allocated, others), 0)
    for item in listed:
        if not item.healthy:
            found["cordoned" if states.get(item.device.uuid) == "cordoned" else "unhealthy"] += 1
        else:
            found["allocated" if item.id in held else others] += 1
    return {
        "devices": len(listed),
        "healthy": sum(item.healthy for item in listed),
        "held": sum(item.id in held for item in listed) if view.holders_known else None,
        "states": found,
    }


def _kubelet(known: ResourceStatus | None) -> _Json:
    status = known or ResourceStatus("", registered=False)
    return {
        "registered": status.registered,
        "registrations": status.registrations,
        "streamSince": status.stream_since,
        "listsSent": status.lists_sent,
        "lastError": status.last_error or None,
    }


def _verdict(verdict: Verdict) -> _Json:
    return {"good": verdict.good, "reasons": list(verdict.reasons)}


def _free_runs(gpu: Gpu) -> list[_Json]:
    """Runs of memory slices without an instance; none if placements are unknown.

    A run is unusable if the instances have all compute slices; ``None`` if that is unknown.
    """
    free = gpu.free_slices()
    if free is None:
        return []
    computing = _compute_slices(gpu)
    most = _SEVEN if gpu.memory_slices == _EIGHT else gpu.memory_slices
    usable = None if computing is None else computing < most
    return [{"start": start, "size": size, "usable": usable} for start, size in _runs(free)]


def _runs(slices: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """``(start, size)`` of each run of adjacent slices."""
    # Within a run of adjacent numbers, the number minus its position is constant.
    for _, run in groupby(enumerate(slices), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        yield found[0], len(found)


def _compute_slices(gpu: Gpu) -> int | None:
    """Compute slices of all GPU instances."""
    slices = {device.gi: _gi_slices(device) for device in gpu.mig_devices}
    return None if 0 in slices.values() else sum(slices.values())


def _gi_slices(device: MigDevice) -> int:
    parsed = Profile.parse(device.profile)
    return device.gi_slices or (parsed.gi_slices if parsed else 0)
