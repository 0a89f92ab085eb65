"""The details of a device."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from plugin.web.page.words import Json, Moment, gib, is_gpu, moment, path, slices, title


class Sheet(Struct, frozen=True):
    """``facts`` are (term, value)."""

    id: str
    title: str
    path: str
    state: str
    reasons: tuple[tuple[str, Moment | None], ...]
    pods: tuple[str, ...]
    resource: str
    facts: tuple[tuple[str, str], ...]
    uuid: str
    missing: str


def sheet(name: str, device: Json, gpu: Json, now: float) -> Sheet:
    return Sheet(
        id=name,
        title=title(device),
        path=path(device, gpu),
        state=device["state"] or "withheld",
        reasons=tuple(
            (reason["text"], None if reason["since"] is None else moment(reason["since"], now))
            for reason in device["reasons"]
        ),
        pods=tuple(
            f"{who['namespace']}/{who['pod']}, container {who['container']}"
            for who in device["holders"]
        ),
        resource=device["resource"] or "in no list",
        facts=(*_use(device["use"]), *_facts(device)),
        uuid=device["uuid"],
        missing=", ".join(device["missingNodes"]),
    )


def _facts(device: Json) -> Iterator[tuple[str, str]]:
    if not is_gpu(device):
        yield "Slices", slices(device["placement"]) if device["placement"] else "not known"
        yield "Instances", f"GPU instance {device['gi']}, compute instance {device['ci']}"
    yield "Memory", gib(device["memoryMiB"] * 2**20) if device["memoryMiB"] else "not known"
    if device.get("multiprocessors"):
        yield "Multiprocessors", str(device["multiprocessors"])


def _use(use: Json | None) -> Iterator[tuple[str, str]]:
    if use is None:
        return
    if use["memoryUsedBytes"] is not None and use["memoryTotalBytes"]:
        yield "Memory used", f"{gib(use['memoryUsedBytes'])} of {gib(use['memoryTotalBytes'])}"
    if use["processes"] is not None:
        yield "Processes", str(use["processes"])
    for key, term in (
        ("smActive", "SM activity"),
        ("tensorActive", "Tensor activity"),
        ("dramActive", "DRAM activity"),
    ):
        if use[key] is not None:
            yield term, f"{use[key]:.0%}"
