"""The top of the page: the node, attention lines, and the resources."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from plugin.web.page.words import STATES, Json, Moment, count, devices, moment, pods


class Header(Struct, frozen=True):
    name: str
    state: str
    verdict: str
    summary: str
    facts: tuple[str, ...]
    changed: Moment
    started: Moment


def header(document: Json, now: float) -> Header:
    driver = document["driver"]
    facts = (
        f"driver {driver['version']}" if driver["version"] else "driver unknown",
        f"CUDA {driver['cuda']}" if driver["cuda"] else "",
        f"strategy {document['strategy']}",
        f"configuration {name}" if (name := document["configuration"]["name"]) else "",
        f"generation {document['generation']}",
    )
    state, verdict = _verdict(document)
    return Header(
        name=document["hostname"] or "MIG devices",
        state=state,
        verdict=verdict,
        summary=_summary(document),
        facts=tuple(filter(None, facts)),
        changed=moment(document["changed"], now),
        started=moment(document["started"], now),
    )


def _verdict(document: Json) -> tuple[str, str]:
    if not document["health"]["good"]:
        return "unhealthy", "daemon unhealthy"
    if not document["readiness"]["good"]:
        return "warning", "not ready"
    return "ready", "ready"


def _summary(document: Json) -> str:
    gpus = document["gpus"]
    mig_devices = sum(len(gpu["migDevices"]) for gpu in gpus)
    states = [device["state"] for device in devices(document)]
    parts = [count(len(gpus), "GPU")] if gpus else ["no GPUs"]
    if mig_devices:
        parts.append(count(mig_devices, "MIG device"))
    parts += [f"{states.count(state)} {state}" for state in STATES if state in states]
    return ", ".join(parts)


# ---- attention


class Line(Struct, frozen=True):
    """`text`, then links to `gpus` (indices), then `end`."""

    state: str
    text: str
    gpus: tuple[int, ...] = ()
    end: str = ""


def attention(document: Json) -> list[Line]:
    """Problems of the whole node, and links to GPUs with problems."""
    driver = document["driver"]
    lines = []
    if driver["busySeconds"]:
        busy = f"The driver has not come back from a call for {driver['busySeconds']} s."
        lines.append(Line("unhealthy", busy))
    if driver["error"]:
        lines.append(Line("unhealthy", driver["error"]))
    lines += [Line("unhealthy", reason) for reason in document["health"]["reasons"]]
    # The driver's error is already shown. It is the first of the problems, and the reason why a
    # node that advertises nothing is not ready.
    if not driver["error"] or any(each["devices"] for each in document["resources"].values()):
        lines += [Line("warning", reason) for reason in document["readiness"]["reasons"]]
    problems = document["problems"][1 if driver["error"] else 0 :]
    lines += [Line("warning", problem) for problem in problems]
    lines += [
        Line(
            "warning",
            f"{', '.join(pods(gone['holders']))} has {gone['uuid']}, "
            "which is not on this node any more.",
        )
        for gone in document["gone"]
    ]
    return [*lines, *_partition(document), *_out_of_use(document)]


#: States of partitioning that need no word.
_UNSAID = frozenset({"idle", "success"})


def _partition(document: Json) -> Iterator[Line]:
    """What is wanted and not there, and why."""
    wanted = document["partition"]
    if wanted is None or wanted["state"] in _UNSAID:
        return
    state = "unhealthy" if wanted["state"] == "failed" else "warning"
    behind = tuple(gpu["index"] for gpu in wanted["gpus"] if gpu["state"] != "applied")
    reasons = dict.fromkeys(gpu["reason"]["text"] for gpu in wanted["gpus"] if gpu["reason"])
    reason = wanted["reason"]["text"] if wanted["reason"] and not reasons else "; ".join(reasons)
    if wanted["configuration"] is None:
        yield Line(state, f"Which configuration is wanted is not known: {reason}.")
        return
    text = f"Configuration {wanted['configuration']} is wanted: {wanted['state']}"
    end = f": {reason}." if reason else "."
    yield Line(state, f"{text}, not there on " if behind else text, behind, end)


def _out_of_use(document: Json) -> Iterator[Line]:
    for state in ("unhealthy", "cordoned"):
        hit = {
            gpu["index"]: [d for d in (gpu, *gpu["migDevices"]) if d["state"] == state]
            for gpu in document["gpus"]
        }
        gpus = tuple(index for index, found in hit.items() if found)
        if gpus:
            holders = [who for found in hit.values() for d in found for who in d["holders"]]
            held = f", held by {count(len(pods(holders)), 'pod')}" if holders else ""
            yield Line(state, f"{state.capitalize()} devices on ", gpus, f"{held}.")


# ---- resources


class Part(Struct, frozen=True):
    """A stretch of a resource's bar."""

    start: int
    size: int
    state: str


class Resource(Struct, frozen=True):
    """``stream`` is when kubelet opened its stream; ``kubelet`` describes the registration."""

    prefix: str
    name: str
    devices: int
    bar: tuple[Part, ...]
    figures: tuple[tuple[str, int], ...]
    kubelet: str
    stream: Moment | None


def resources(document: Json, now: float) -> list[Resource]:
    return [_resource(name, found, now) for name, found in document["resources"].items()]


def _resource(name: str, found: Json, now: float) -> Resource:
    prefix, slash, short = name.rpartition("/")
    counts = {state: found["states"][state] for state in STATES if state in found["states"]}
    stream = None
    if found["registered"] and found["streamSince"] is not None:
        kubelet, stream = "registered, stream opened ", moment(found["streamSince"], now)
    elif found["registered"]:
        kubelet = "registered, no stream open"
    else:
        kubelet = "not registered" + (f": {found['lastError']}" if found["lastError"] else "")
    return Resource(
        prefix=prefix + slash,
        name=short,
        devices=found["devices"],
        bar=tuple(_bar(counts)),
        # Zero free devices are worth showing.
        figures=tuple(
            (state, number)
            for state, number in counts.items()
            if number or state in {"free", "healthy"}
        ),
        kubelet=kubelet,
        stream=stream,
    )


def _bar(counts: dict[str, int]) -> Iterator[Part]:
    start = 0
    for state, number in counts.items():
        if number:
            yield Part(start, number, state)
        start += number
