"""The status page: a node's GPUs drawn as memory slices, from the same document as
``/api/v1/state``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plugin.core.reasons import Scope
from plugin.web.page.markup import Html, element, join

_Json = Mapping[str, Any]

_FOLDER = Path(__file__).parent
_SKELETON, _STYLE, _SCRIPT = (
    (_FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: The page brings everything along, so nothing else may be loaded or run, whatever a pod's name
#: contains.
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; "
            "connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)

#: What a state is drawn with where colours are not seen.
_MARKS = {
    "allocated": "●",
    "free": "○",
    "healthy": "○",
    "unhealthy": "✕",
    "cordoned": "◆",
    "withheld": "–",
    "ready": "✓",
    "warning": "!",
}
_STATES = tuple(_MARKS)[:6]
_BAD = ("unhealthy", "cordoned", "withheld")
#: The rail has classes for this many slices; no card has more than eight.
_MOST_SLICES = 16


def render(told: _Json, now: float) -> str:
    """The whole page. `told` is :func:`plugin.web.state.document`, `now` the wall clock's time."""
    live = join(
        _header(told, now),
        element("main", _attention(told), _resources(told, now), _gpus(told, now)),
    )
    parts = {
        "title": join(f"{told['hostname'] or 'MIG devices'}: {_summary(told)}"),
        "style": _STYLE,
        "script": _SCRIPT,
        "now": str(now),
        "live": live,
        "version": join(told["version"]),
    }
    # In one pass, so that nothing that is filled in is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _SKELETON)


# ---- header


def _header(told: _Json, now: float) -> Html:
    driver = told["driver"]
    facts = [
        f"driver {driver['version']}" if driver["version"] else "driver unknown",
        f"CUDA {driver['cuda']}" if driver["cuda"] else "",
        f"strategy {told['strategy']}",
        f"generation {told['generation']}",
    ]
    return element(
        "header",
        element(
            "div",
            element("h1", told["hostname"] or "MIG devices"),
            _verdict(told),
            class_="title",
        ),
        element("p", _summary(told), class_="summary", id="summary"),
        element(
            "p",
            *(element("span", fact) for fact in facts if fact),
            element("span", "changed ", _ago(told["changed"], now)),
            element("span", "started ", _ago(told["started"], now)),
            class_="facts",
        ),
    )


def _verdict(told: _Json) -> Html:
    if not told["health"]["good"]:
        return _pill("unhealthy", "daemon unhealthy")
    if not told["readiness"]["good"]:
        return _pill("warning", "not ready")
    return _pill("ready", "ready")


def _pill(state: str, text: str) -> Html:
    return element("span", _mark(state), text, class_=f"pill {state}")


def _mark(state: str) -> Html:
    return element("span", _MARKS[state], class_="mark", aria_hidden="true")


def _summary(told: _Json) -> str:
    gpus = told["gpus"]
    devices = [device for gpu in gpus for device in gpu["migDevices"]]
    counted = [device for device in (*gpus, *devices) if device["state"]]
    states = {state: sum(device["state"] == state for device in counted) for state in _STATES}
    parts = [_count(len(gpus), "GPU")] if gpus else ["no GPUs"]
    if devices:
        parts.append(_count(len(devices), "MIG device"))
    parts += [f"{number} {state}" for state, number in states.items() if number]
    return ", ".join(parts)


# ---- attention


def _attention(told: _Json) -> Html | None:
    """What is wrong with the node as a whole, and where to look for the rest."""
    driver = told["driver"]
    lines: list[tuple[str, str | Html]] = []
    if driver["busySeconds"]:
        lines.append(
            (
                "unhealthy",
                f"The driver has not come back from a call for {driver['busySeconds']} s.",
            )
        )
    if driver["error"]:
        lines.append(("unhealthy", driver["error"]))
    lines += [("unhealthy", why) for why in told["health"]["reasons"]]
    # The driver's error is said above. It is the first of the problems, and it is why a node is not
    # ready that advertises nothing.
    if not driver["error"] or any(each["devices"] for each in told["resources"].values()):
        lines += [("warning", why) for why in told["readiness"]["reasons"]]
    lines += [("warning", why) for why in told["problems"][1 if driver["error"] else 0 :]]
    lines += [
        (
            "warning",
            f"{_names(gone['holders'])} has {gone['uuid']}, which is not on this node any more.",
        )
        for gone in told["gone"]
    ]
    for state in ("unhealthy", "cordoned"):
        hit = [
            gpu
            for gpu in told["gpus"]
            if any(d["state"] == state for d in (gpu, *gpu["migDevices"]))
        ]
        if hit:
            links = [
                element("a", f"GPU {gpu['index']}", href=f"#gpu-{gpu['index']}") for gpu in hit
            ]
            devices = [d for gpu in hit for d in (gpu, *gpu["migDevices"]) if d["state"] == state]
            pods = {pod for device in devices for pod in _pods(device["holders"])}
            held = f", held by {_count(len(pods), 'pod')}" if pods else ""
            lines.append(
                (state, join(f"{state.capitalize()} devices on ", *_listed(links), f"{held}."))
            )
    if not lines:
        return None
    return element(
        "section",
        element("h2", "Attention", id="attention"),
        element(
            "ul",
            *(
                element("li", _mark(state), element("span", text), class_=state)
                for state, text in lines
            ),
            role="list",
        ),
        class_="attention",
        aria_labelledby="attention",
    )


# ---- resources


def _resources(told: _Json, now: float) -> Html:
    listed = told["resources"]
    cards = [_resource(name, resource, now) for name, resource in listed.items()]
    return element(
        "section",
        element("h2", "Resources", id="resources"),
        element("ul", *cards, class_="resources", role="list")
        if cards
        else element("p", "Nothing is advertised to kubelet.", class_="empty"),
        None
        if told["allocationsKnown"]
        else element("p", "Kubelet does not say which pods hold devices.", class_="note"),
        aria_labelledby="resources",
    )


def _resource(name: str, resource: _Json, now: float) -> Html:
    counts = {state: resource["states"].get(state, 0) for state in _STATES}
    # What is worth knowing though it is none: that nothing is free.
    figures = {
        state: count for state, count in counts.items() if count or state in {"free", "healthy"}
    }
    figures = {state: count for state, count in figures.items() if state in resource["states"]}
    ready = resource["registered"] and resource["streamSince"] is not None
    if ready:
        kubelet = join("registered, stream opened ", _ago(resource["streamSince"], now))
    elif resource["registered"]:
        kubelet = join("registered, no stream open")
    else:
        kubelet = join(
            "not registered", f": {resource['lastError']}" if resource["lastError"] else ""
        )
    prefix, slash, short = name.rpartition("/")
    return element(
        "li",
        element(
            "h3",
            element("span", prefix + slash, class_="prefix"),
            short,
            element("b", str(resource["devices"])),
        ),
        _bar(resource["devices"], counts),
        element(
            "p",
            *(
                element("span", _mark(state), f"{count} {state}", class_=f"figure {state}")
                for state, count in figures.items()
            ),
            class_="figures",
        ),
        element(
            "p",
            None if ready else _mark("unhealthy"),
            kubelet,
            class_="kubelet" if ready else "kubelet bad",
        ),
        class_="resource",
    )


def _bar(total: int, parts: Mapping[str, int]) -> Html:
    """The counts as one bar; the words are beside it."""
    rects, x = [], 0
    for state, count in parts.items():
        if count:
            rects.append(element("rect", x=x, y=0, width=count, height=1, class_=state))
        x += count
    return element(
        "svg",
        *rects,
        viewBox=f"0 0 {max(total, 1)} 1",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


# ---- GPUs


def _gpus(told: _Json, now: float) -> Html:
    return element(
        "section",
        element("div", element("h2", "GPUs", id="gpus"), _legend(told), class_="heading"),
        element("ol", *(_gpu(gpu, now) for gpu in told["gpus"]), class_="gpus", role="list")
        if told["gpus"]
        else element("p", "The driver shows no GPUs on this node.", class_="empty"),
        aria_labelledby="gpus",
    )


def _legend(told: _Json) -> Html | None:
    states = {d["state"] for gpu in told["gpus"] for d in (gpu, *gpu["migDevices"])}
    shown = [
        element("li", _mark(state), state, class_=state) for state in _STATES if state in states
    ]
    return (
        element("ul", *shown, class_="legend", role="list", aria_label="States") if shown else None
    )


def _gpu(gpu: _Json, now: float) -> Html:
    facts = [
        gpu["product"],
        _gib(gpu["memoryMiB"] * 2**20) if gpu["memoryMiB"] else "",
        _mode(gpu["mig"]),
        f"NUMA {gpu['numa']}" if gpu["numa"] is not None else "",
        gpu["pciBusId"],
    ]
    state = None if _is_whole(gpu) else gpu["state"]
    return element(
        "li",
        element(
            "div",
            element("h3", f"GPU {gpu['index']}"),
            element("p", *(element("span", fact) for fact in facts if fact), class_="facts"),
            _pill(state, state) if state else None,
            class_="gpu-title",
        ),
        _rail(gpu),
        _notes(gpu, now),
        *(_sheet(device, gpu, now) for device in ([gpu] if _is_whole(gpu) else gpu["migDevices"])),
        class_="gpu",
        id=f"gpu-{gpu['index']}",
    )


def _is_whole(gpu: _Json) -> bool:
    """Whether the GPU itself is the device to draw: it has neither MIG devices nor room for
    them.
    """
    return not gpu["migDevices"] and not gpu["freeRuns"]


def _mode(mig: _Json | None) -> str:
    if mig is None:
        return ""
    mode = f"MIG {'on' if mig['current'] else 'off'}"
    return (
        mode
        if mig["current"] == mig["pending"]
        else f"{mode}, {'on' if mig['pending'] else 'off'} after a reset"
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something on the rail, at these slices."""

    start: int
    size: int
    html: Html


def _rail(gpu: _Json) -> Html:
    devices = gpu["migDevices"]
    name = f"GPU {gpu['index']}"
    if _is_whole(gpu):
        return element(
            "ol",
            element("li", _tile(gpu), class_="slot"),
            class_="rail whole",
            role="list",
            aria_label=name,
        )
    if any(device["placement"] is None for device in devices):
        slots = (element("li", _tile(device), class_="slot") for device in devices)
        return join(
            element(
                "ol", *slots, class_="rail loose", role="list", aria_label=f"Devices of {name}"
            ),
            element(
                "p",
                "Where the instances lie is not known: the driver does not tell this process.",
                class_="note",
            ),
        )
    pieces = sorted(
        (*_instances(devices), *map(_run, gpu["freeRuns"])), key=lambda piece: piece.start
    )
    total = min(
        max([gpu["memorySlices"], *(piece.start + piece.size for piece in pieces)]), _MOST_SLICES
    )
    scale = element(
        "ol", *(element("li", str(slot)) for slot in range(total)), class_=f"scale n{total}"
    )
    return element(
        "div",
        element(
            "ol",
            *(piece.html for piece in pieces),
            class_=f"rail n{total}",
            role="list",
            aria_label=f"Memory slices of {name}",
        ),
        element("div", scale, aria_hidden="true"),
        class_="slices",
    )


def _instances(devices: Iterable[_Json]) -> Iterator[_Piece]:
    """A piece for each GPU instance, with its compute instances side by side."""
    instances: dict[int, list[_Json]] = {}
    for device in devices:
        instances.setdefault(device["gi"], []).append(device)
    for inside in instances.values():
        at = inside[0]["placement"]
        tiles = (_tile(device) for device in inside)
        html = element(
            "li",
            *tiles,
            class_=f"slot s{at['start']} w{at['size']}{' shared' if len(inside) > 1 else ''}",
        )
        yield _Piece(at["start"], at["size"], html)


def _run(run: _Json) -> _Piece:
    words = _count(run["size"], "free slice")
    why = "no compute slice left" if run["usable"] is False else "no instance"
    html = element(
        "li",
        element(
            "span",
            element("b", words),
            element("small", why),
            element("span", _slices(run), class_="at"),
            class_="run",
        ),
        class_=f"slot s{run['start']} w{run['size']}",
    )
    return _Piece(run["start"], run["size"], html)


def _tile(device: _Json) -> Html:
    """What is seen of a device; its sheet has the rest."""
    state = device["state"] or "withheld"
    at = device.get("placement")
    pods = _pods(device["holders"])
    more = f" and {len(pods) - 1} more" if len(pods) > 1 else None
    return element(
        "button",
        element("b", _title(device)),
        element("span", _mark(state), state, class_="state"),
        element("span", _slices(at), class_="at") if at else None,
        element("span", _breakable(pods[0]), more, class_="pod") if pods else None,
        type="button",
        class_=f"tile {state}",
        id=f"tile-{_id(device)}",
        popovertarget=f"sheet-{_id(device)}",
    )


def _title(device: _Json) -> str:
    if "migDevices" in device:
        return str(device["product"] or "GPU")
    return str(device["profile"] or "unreadable")


def _id(device: _Json) -> str:
    return re.sub(r"[^\w-]", "-", device["uuid"], flags=re.ASCII)


# ---- notes


def _notes(gpu: _Json, now: float) -> Html | None:
    """Each reason once, with the devices it holds down and the pods it hits; not those of the whole
    node.
    """
    hit: dict[tuple[str, str], list[_Json]] = {}
    why: dict[tuple[str, str], _Json] = {}
    for device in (gpu, *gpu["migDevices"]):
        for reason in device["reasons"]:
            if reason["scope"] == Scope.DEVICE:
                key = reason["code"], reason["text"]
                hit.setdefault(key, []).append(device)
                why.setdefault(key, reason)
    lines = [_note(gpu, devices, why[key], now) for key, devices in hit.items()]
    return element("ul", *lines, class_="notes", role="list") if lines else None


def _note(gpu: _Json, devices: list[_Json], reason: _Json, now: float) -> Html:
    state = reason["code"] if reason["code"] in _BAD else "unhealthy"
    where = (
        f"all of GPU {gpu['index']}"
        if devices[0] is gpu
        else ", ".join(
            f"{_title(device)} at {gpu['index']}:{device['index']}" for device in devices
        )
    )
    pods = sorted({pod for device in devices for pod in _pods(device["holders"])})
    return element(
        "li",
        _mark(state),
        element(
            "span",
            element("b", reason["text"]),
            element("span", where),
            element("span", "began ", _ago(reason["since"], now))
            if reason["since"] is not None
            else None,
            element("span", "until an operator takes it back")
            if reason["clears"] == "operator"
            else None,
            element(
                "span",
                f"{'hits' if state == 'unhealthy' else 'held by'} {', '.join(pods)}",
                class_="hit",
            )
            if pods
            else None,
        ),
        class_=state,
    )


# ---- sheets


def _sheet(device: _Json, gpu: _Json, now: float) -> Html:
    """Everything about one device; opens without a script."""
    sheet = f"sheet-{_id(device)}"
    state = device["state"] or "withheld"
    whole = "migDevices" in device
    path = str(gpu["index"]) if whole else f"{gpu['index']}:{device['index']}"
    rows: list[tuple[str, str | Html | None]] = [
        ("State", join(_pill(state, state))),
        *(("Reason", _reason(reason, now)) for reason in device["reasons"]),
        *(
            ("Pod", f"{who['namespace']}/{who['pod']}, container {who['container']}")
            for who in device["holders"]
        ),
        ("Resource", device["resource"] or "in no list"),
        *_use(device["use"]),
        (
            "Slices",
            None if whole else _slices(device["placement"]) if device["placement"] else "not known",
        ),
        (
            "Instances",
            None if whole else f"GPU instance {device['gi']}, compute instance {device['ci']}",
        ),
        ("Memory", _gib(device["memoryMiB"] * 2**20) if device["memoryMiB"] else "not known"),
        (
            "Multiprocessors",
            str(device["multiprocessors"]) if device.get("multiprocessors") else None,
        ),
        ("UUID", element("code", device["uuid"])),
        ("Missing nodes", ", ".join(device["missingNodes"]) or None),
    ]
    return element(
        "div",
        element("h4", f"{_title(device)} ", element("small", path), id=f"{sheet}-title"),
        element(
            "dl", *(join(element("dt", term), element("dd", text)) for term, text in rows if text)
        ),
        element(
            "button",
            "Close",
            type="button",
            id=f"{sheet}-close",
            popovertarget=sheet,
            popovertargetaction="hide",
            autofocus=True,
        ),
        popover="auto",
        class_="sheet",
        id=sheet,
        role="dialog",
        aria_labelledby=f"{sheet}-title",
    )


def _reason(reason: _Json, now: float) -> Html:
    since = join(", began ", _ago(reason["since"], now)) if reason["since"] is not None else ""
    return join(reason["text"], since)


def _use(use: _Json | None) -> Iterator[tuple[str, str]]:
    if use is None:
        return
    if use["memoryUsedBytes"] is not None and use["memoryTotalBytes"]:
        yield "Memory used", f"{_gib(use['memoryUsedBytes'])} of {_gib(use['memoryTotalBytes'])}"
    if use["processes"] is not None:
        yield "Processes", str(use["processes"])
    for key, words in (
        ("smActive", "SM activity"),
        ("tensorActive", "Tensor activity"),
        ("dramActive", "DRAM activity"),
    ):
        if use[key] is not None:
            yield words, f"{use[key]:.0%}"


# ---- words


def _slices(at: _Json) -> str:
    last = at["start"] + at["size"] - 1
    return f"slice {at['start']}" if last == at["start"] else f"slices {at['start']} to {last}"


def _pods(holders: Iterable[_Json]) -> list[str]:
    return list(dict.fromkeys(f"{who['namespace']}/{who['pod']}" for who in holders))


def _breakable(pod: str) -> Html:
    """The name with a place where a line may end."""
    namespace, slash, name = pod.partition("/")
    return join(namespace, slash, Html("<wbr>"), name)


def _names(holders: Iterable[_Json]) -> str:
    return ", ".join(_pods(holders))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(items: list[Html]) -> list[str | Html]:
    return [part for item in items for part in (item, ", ")][:-1]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB".replace(".0 ", " ")


def _ago(when: float, now: float) -> Html:
    """A time in relation to now; the script keeps it up to date in the same words."""
    moment = datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
    return element("time", age(now - when), datetime=moment, title=moment, data_at=f"{when:.0f}")


def age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now" if seconds < 5 else f"{max(seconds, 0) // 5 * 5:.0f} s ago"  # noqa: PLR2004 — as often as the script asks
