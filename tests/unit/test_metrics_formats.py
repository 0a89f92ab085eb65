"""Metrics: both formats, for any view."""

from __future__ import annotations

import math
import subprocess
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from plugin.core.health.ledger import Entry
from plugin.core.inventory.model import Inventory
from plugin.core.inventory.samples import Activity, CardSample, DeviceSample, Samples
from plugin.core.reasons import Code
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import DURATION_BOUNDS, CallStats, Holder, ResourceStatus, View
from plugin.web.metrics.family import PREFIX
from plugin.web.metrics.scrape import ViewCollector, render
from tests.unit.builders import gpu, mig_gpu, node
from tests.unit.metric_views import (
    ONE_G,
    TRAIN,
    body,
    full,
    library_openmetrics,
    promtool,
    reason,
    samples,
    series,
    shared,
    text_of_labels,
    view,
)


def test_both_formats_say_the_same() -> None:
    text, openmetrics = (series(samples(full(), openmetrics=which)) for which in (False, True))
    assert text == openmetrics
    assert [
        render(full(), openmetrics=which, dcgm_names=False, hostname="")[1]
        for which in (False, True)
    ] == [
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ]


@pytest.mark.parametrize(
    "name", ["plain", 'a "card"', "back\\slash", "two\nlines", "\\n", "ünïcode"], ids=repr
)
def test_text_is_what_the_library_writes(name: str) -> None:
    odd = full(holders={"MIG-0-7-0": (replace(TRAIN, pod=name),)})
    registry = CollectorRegistry()
    registry.register(ViewCollector(odd, dcgm_names=True, hostname="node-1"))
    assert body(odd) == generate_latest(registry).decode()
    assert body(odd, openmetrics=True) == library_openmetrics(registry).decode()
    assert name in {s.labels.get("pod") for s in samples(odd)}


def test_a_name_that_is_no_text_does_not_cost_the_scrape() -> None:
    assert "broken ? card" in text_of_labels(view(node(gpu(0, product="broken \udcff card"))))


def test_nothing_is_registered_with_the_librarys_global_registry() -> None:
    render(full(), openmetrics=False, dcgm_names=True, hostname="")
    assert PREFIX not in generate_latest().decode()


@promtool
def test_promtool_finds_nothing_to_complain_of() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=body(full(), dcgm_names=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


@promtool
def test_promtool_reads_dcgm_names_and_dislikes_only_their_style() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=body(full()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 3, check.stderr  # "style and consistency"
    assert [line for line in check.stderr.splitlines() if not line.startswith("DCGM_FI_")] == []


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


COUNTS = st.integers(0, 2**63)
SHARES = st.floats(0, 1)
LAYOUTS = st.sampled_from(
    [
        (),
        ("7g.40gb",),
        ("1g.5gb",) * 7,
        ("3g.20gb", "3g.20gb"),
        ("4g.20gb", "2g.10gb", "1g.5gb"),
        None,
    ]
)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any node: known or not, whole or divided, with two compute instances in one place, shared,
    held, at fault.
    """
    gpus = []
    for index, profiles in enumerate(draw(st.lists(LAYOUTS, max_size=3))):
        card = gpu(index) if profiles is None else mig_gpu(index, *profiles)
        if draw(st.booleans()) and card.mig_devices:
            first = card.mig_devices[0]
            second = replace(first, uuid=f"{first.uuid}-second", ci=1, index=9)
            card = replace(card, mig_devices=(first, second, *card.mig_devices[1:]))
        changes = {"product": draw(st.text(max_size=4)), "error": draw(optional(st.just("lost")))}
        gpus.append(replace(card, **changes))
    inventory = Inventory(
        tuple(gpus), draw(st.text(max_size=4)), cuda_version=draw(optional(st.just((12, 4))))
    )
    uuids = [device.uuid for device in inventory.devices()]
    known = st.sampled_from([*uuids, "GPU-gone"])
    names = st.text(max_size=3)
    reasons = st.lists(
        st.sampled_from(["xid-31", "xid-79", Code.CORDONED]).map(reason), max_size=3, unique=True
    )
    entries = st.builds(
        Entry,
        st.just(""),
        reasons=reasons.map(tuple),
        xids=st.dictionaries(st.integers(0, 200), COUNTS),
    )
    devices = st.builds(
        DeviceSample,
        memory_total=optional(COUNTS),
        memory_used=optional(COUNTS),
        processes=optional(COUNTS),
        activity=st.builds(Activity, optional(SHARES), optional(SHARES)),
        ecc_corrected=optional(COUNTS),
    )
    cards = st.builds(
        CardSample,
        power=optional(SHARES),
        energy=optional(SHARES),
        remap_pending=optional(st.booleans()),
    )
    samples = st.builds(
        Samples,
        time=st.floats(0, 2000),
        devices=st.dictionaries(known, devices),
        cards=st.dictionaries(known, cards),
    )
    ids = st.builds("{}{}".format, known, st.sampled_from(["", "::0", "::1", "::2"]))
    holders = st.lists(st.builds(Holder, names, names, names), max_size=3).map(tuple)
    buckets = st.lists(
        COUNTS, min_size=len(DURATION_BOUNDS) + 1, max_size=len(DURATION_BOUNDS) + 1
    ).map(tuple)
    resources = st.sampled_from([ONE_G, "nvidia.com/gpu"])
    methods = st.sampled_from(["Allocate", "GetPreferredAllocation"])
    settings = draw(
        st.sampled_from([shared(3), *(Settings(mig_strategy=strategy) for strategy in MigStrategy)])
    )
    return view(
        inventory,
        settings=settings,
        ledger=draw(st.dictionaries(known, entries)),
        resources=draw(
            st.lists(st.builds(ResourceStatus, resources, st.booleans()), max_size=3).map(tuple)
        ),
        calls=draw(
            st.dictionaries(
                st.tuples(resources, methods), st.builds(CallStats, buckets, st.floats(0, 9))
            )
        ),
        holders=draw(optional(st.dictionaries(ids, holders))),
        samples=draw(optional(samples)),
    )


@settings(max_examples=50)  # each is read twice by parsers that are made to be strict, not fast
@given(views())
def test_no_view_makes_a_series_twice_or_a_body_that_cannot_be_read(any_view: View) -> None:
    found = samples(any_view)
    assert [
        name
        for name, count in Counter((s.name, *sorted(s.labels.items())) for s in found).items()
        if count > 1
    ] == []
    assert series(samples(any_view, openmetrics=True)) == series(found)
    assert not any(math.isnan(sample.value) for sample in found)
    present = {device.uuid for device in any_view.snapshot.inventory.devices()}
    assert {
        s.labels[key] for s in found for key in ("uuid", "parent_uuid", "UUID") if key in s.labels
    } <= present
