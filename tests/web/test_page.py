"""The status page as markup: nothing from outside, nothing unescaped, and what a reader needs
without a script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from msgspec.structs import replace

from plugin.core.settings import Settings
from plugin.core.view import View
from plugin.sim.hardware.engine import parse_node
from plugin.web.page import render as page
from plugin.web.page.words import age
from plugin.web.state import document
from tests.simulated import scan
from tests.web.scenes import (
    NOW,
    SCENES,
    Node,
    balanced,
    cordoned,
    faulted,
    hostile,
    invalid_single,
    no_gpus,
    partitioned,
)

every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)

#: Elements that have no end.
VOID = {"meta", "link", "wbr"}


class Parsed(HTMLParser):
    """Elements with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in {"style", "script"}:
            self.raw[self._open[-1]] = data
        else:
            self.text += data


def rendered(scene: object) -> str:
    assert callable(scene)
    return page.render(document(scene(), "node-7"), NOW)


@every_scene
def test_elements_nest_and_ids_are_unique(scene: object) -> None:
    parsed = Parsed(rendered(scene))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.elements:
        for reference in ("popovertarget", "aria-labelledby"):
            if reference in attributes:
                assert attributes[reference] in ids
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids


@every_scene
def test_nothing_comes_from_outside(scene: object) -> None:
    text = rendered(scene)
    for tag, attributes in Parsed(text).elements:
        assert tag not in {"img", "iframe", "object", "base", "form"}
        assert not {"src", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "/").startswith(("/", "#", "data:image/svg+xml,"))
    assert "@import" not in text
    assert "url(" not in text


def test_the_policy_allows_this_style_and_this_script_and_nothing_else() -> None:
    policy = dict(
        part.strip().split(" ", 1)
        for part in page.HEADERS["Content-Security-Policy"].split(";")
        if " " in part.strip()
    )
    raw = Parsed(rendered(balanced)).raw
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(raw[kind].encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"


def test_what_others_named_stays_text() -> None:
    text = rendered(hostile)
    parsed = Parsed(text)
    assert "<script>alert(1)</script>/\"><img src=x onerror='alert(2)'>" in parsed.text
    assert "'{{live}}'" in parsed.text
    assert "</style><b onclick=x>&amp;" in parsed.text
    assert [tag for tag, _ in parsed.elements].count("script") == 1


def test_every_device_is_told_with_its_pod_and_its_reasons() -> None:
    view = faulted()
    text = " ".join(Parsed(rendered(faulted)).text.split())
    for gpu in view.snapshot.inventory.gpus:
        for device in gpu.mig_devices:
            assert device.uuid in text
    assert view.holders is not None
    for who in view.holders.values():
        assert f"{who[0].namespace}/{who[0].pod}, container main" in text
    assert "XID 79: GPU has fallen off the bus; restart the node" in text
    assert "1 free slice" in text
    assert "no compute slice left" in text


def test_what_is_wanted_stands_beside_what_is_there() -> None:
    text = " ".join(Parsed(rendered(partitioned)).text.split())
    assert (
        "Configuration all-2g.10gb is wanted: waiting, not there on GPU 1, GPU 2: GPU 1 waits"
        in text
    )
    assert "held by ml/train; it failed." in text
    assert "wanted: 3 × 2g.10gb (waiting)" in text
    assert "wanted: 3 × 2g.10gb (rolled-back)" in text
    assert text.count("wanted: 3 × 2g.10gb") == 2


def test_an_instance_without_compute_instances_is_no_gap() -> None:
    hardware = parse_node("1xa100-40gb:0=1g.5gb")
    hardware.create_gi(0, "3g.20gb")
    made = Node(scan(hardware), Settings())
    text = " ".join(Parsed(rendered(made.view)).text.split())
    assert "empty 3g.20gb" in text
    assert "no compute instance" in text


def test_a_fault_names_the_devices_and_the_pods_that_it_hits() -> None:
    notes = re.findall(r'<ul class="notes".*?</ul>', rendered(faulted))
    texts = [html.unescape(re.sub("<[^>]*>", " ", note)) for note in notes]
    assert len(texts) == 2
    one, whole = texts
    assert "double-bit ECC error" in one
    assert "1g.10gb at 0:2" in one
    assert "hits research/notebook-ada-02" in one
    assert "all of GPU 2" in whole
    assert "serving/whisper-2-25" in whole
    assert whole.count("XID 79") == 1


def test_summaries() -> None:
    assert "8 GPUs, 32 MIG devices, 24 allocated, 8 free" in rendered(balanced)
    assert "8 GPUs, 32 MIG devices, 14 allocated, 13 free, 6 cordoned" in rendered(cordoned)
    assert "The driver shows no GPUs on this node." in rendered(no_gpus)
    assert Parsed(rendered(no_gpus)).text.count("libnvidia-ml.so.1") == 1
    invalid = rendered(invalid_single)
    assert "nothing is advertised until that is mended" in invalid
    assert "Nothing is advertised to kubelet." in invalid


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3.0, "just now"),
        (4.9, "just now"),
        (59.0, "55 s ago"),
        (60.0, "1 min ago"),
        (7199.0, "1 h ago"),
        (200_000.0, "2 d ago"),
    ],
)
def test_ages(seconds: float, expected: str) -> None:
    assert age(seconds) == expected


#: What only the daemon's own words stand in.
OWN = {"scope", "state", "health", "clears"}
AGELESS = {"since": None, "clears": "operator", "scope": "device"}


def with_texts(part: Any, text: str, key: str = "") -> Any:
    """The document with `text` wherever others may have a word."""
    if isinstance(part, dict):
        return {
            f"{text}/{name}" if key == "resources" else name: with_texts(each, text, name)
            for name, each in part.items()
        }
    if isinstance(part, list):
        return [with_texts(each, text, key) for each in part]
    return text if isinstance(part, str) and key not in OWN else part


@every_scene
def test_every_text_is_escaped_wherever_it_stands(scene: Callable[[], View]) -> None:
    evil = "\"'><script>alert(1)</script></style></title><b onclick=x>&amp;{{ now }}{% raw %}"
    state = document(scene(), "node-7")
    for gpu in state["gpus"]:  # so that each place of the page has something to show
        for device in (gpu, *gpu["migDevices"]):
            device["missingNodes"] = ["/dev/nvidia0"]
            device["reasons"] = [*device["reasons"], dict.fromkeys(("code", "text"), "x") | AGELESS]
    plain, hostile_ = (
        Parsed(page.render(with_texts(state, text), NOW)) for text in ("harmless", evil)
    )
    assert [(tag, sorted(has)) for tag, has in hostile_.elements] == [
        (tag, sorted(has)) for tag, has in plain.elements
    ]
    assert hostile_.text == plain.text.replace("harmless", evil)


@pytest.mark.parametrize("when", [-1e300, 1e300, float("inf"), float("-inf"), float("nan")])
def test_times_that_no_calendar_has_are_shown_as_some_time(when: float) -> None:
    state = document(replace(balanced(), started=when), "node-7")
    assert "started" in Parsed(page.render(state, NOW)).text
