"""The routes without a network: tags that are true and cost no page, and texts that are no text."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.inventory.samples import DeviceSample, Samples
from plugin.core.partition.progress import Counts, GpuProgress, GpuState, Progress, State
from plugin.core.reasons import Code, Reason
from plugin.core.view import CallStats, ClusterStatus, Holder, ResourceStatus, View
from plugin.web.http.message import Request, Response
from plugin.web.routes import Page, Site, load_page
from plugin.web.state import document, still
from tests.web.scenes import NOW, balanced, cordoned, faulted, hostile, no_gpus, node, samples

TAGGED = ("/", "/api/v1/state")


def asked(path: str, **headers: str) -> Request:
    return Request("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})


def answer(site: Site, request: Request) -> Response:
    async def ask() -> Response:
        return await site(request)

    return asyncio.run(ask())


# ---- tags


def test_a_client_whose_copy_is_current_costs_no_page() -> None:
    made = []

    def render(state: Mapping[str, Any], now: float) -> str:
        made.append(now)
        return f"page of {state['hostname']}"

    site = Site(balanced, hostname="node-7", load_page=lambda: Page(render, {"X-Frame": "no"}))
    first = answer(site, asked("/"))
    assert (first.body, first.headers["X-Frame"]) == (b"page of node-7", "no")
    again = answer(site, asked("/", if_none_match=f'"other", W/{first.headers["ETag"]}'))
    assert (again.status, again.body) == (304, b"")
    assert again.headers == first.headers
    assert made == [NOW]


#: Scenes that exist once, and are made anew: by identity and by value they are the same.
SCENES = (balanced, faulted, cordoned, no_gpus)
ONCE = tuple(scene() for scene in SCENES)
DEVICE = ONCE[0].snapshot.inventory.gpus[0].mig_devices[0].uuid
GPU = ONCE[0].snapshot.inventory.gpus[0].uuid

CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "now": st.floats(NOW - 100, NOW + 100),
    "started": st.sampled_from([NOW - 5, NOW - 5.5]),
    "changed": st.sampled_from([NOW - 5, NOW - 5.5]),
    "geometry": st.integers(1, 3),
    "resources": st.lists(
        st.builds(
            ResourceStatus,
            st.sampled_from(["nvidia.com/mig-1g.5gb", "nvidia.com/gone"]),
            registered=st.booleans(),
            registrations=st.integers(0, 2),
            stream_since=st.sampled_from([None, NOW - 9, NOW - 8]),
            lists_sent=st.integers(0, 2),
            last_error=st.sampled_from(["", "no answer"]),
        ),
        max_size=2,
    ).map(tuple),
    "calls": st.just({("nvidia.com/mig-1g.5gb", "Allocate"): CallStats(errors=1)}),
    "holders": st.none()
    | st.dictionaries(
        st.sampled_from([DEVICE, f"{DEVICE}::1", GPU, "MIG-gone"]),
        st.lists(
            st.builds(Holder, st.sampled_from("ab"), st.sampled_from("ab"), st.just("c")),
            max_size=2,
        ).map(tuple),
    ),
    "handed_out": st.frozensets(st.sampled_from([DEVICE, f"{DEVICE}::1", GPU])),
    "holders_complete": st.booleans(),
    "held_twice": st.sampled_from([(), ("MIG-1 is held by 2 pods",)]),
    "samples": st.none()
    | st.builds(
        Samples,
        st.sampled_from([NOW - 1, NOW - 2]),
        devices=st.dictionaries(
            st.sampled_from([DEVICE, GPU]),
            st.builds(DeviceSample, memory_total=st.just(9), memory_used=st.integers(0, 2)),
        ),
    ),
    "sampling": st.booleans(),
    "cluster": st.none()
    | st.builds(ClusterStatus, problems=st.sampled_from([(), ("Events: no",)])),
    "partition": st.none()
    | st.builds(
        Progress,
        st.sampled_from([State.WAITING, State.SUCCESS]),
        st.just("all-balanced"),
        gpus=st.sampled_from([(), (GpuProgress(GPU, 0, GpuState.WAITING),)]),
        counts=st.builds(Counts, applied=st.integers(0, 2)),
    ),
    "driver_busy": st.floats(0, 100) | st.sampled_from([10.0, 30.0, 30.001, 30.5, 31.0]),
    "stuck": st.sampled_from([(), ("events",)]),
    "notes": st.sampled_from([(), ("the features file cannot be written",)]),
}

VIEWS = st.tuples(
    st.integers(0, len(SCENES) - 1), st.booleans(), st.fixed_dictionaries({}, optional=CHANGES)
).map(lambda drawn: replace(ONCE[drawn[0]] if drawn[1] else SCENES[drawn[0]](), **drawn[2]))


def test_every_part_of_a_view_is_varied() -> None:
    assert set(View.__struct_fields__) == {"snapshot", *CHANGES}


@settings(deadline=None, max_examples=60)
@given(st.lists(VIEWS, min_size=2, max_size=6), st.sampled_from(TAGGED))
def test_a_tag_never_says_unchanged_of_something_that_changed(views: list[View], path: str) -> None:
    """Whatever a client is not sent again is what it has, whenever it asked last."""
    shown = iter(views)
    site = Site(lambda: next(shown), load_page=lambda: Page(lambda state, _: json.dumps(state), {}))
    copies: dict[str, tuple[str, float]] = {}

    async def visits() -> None:
        for view in views:
            got = await site(asked(path, if_none_match=",".join(copies)))
            now = view.now // 30 if path == "/" else 0.0
            copy = json.dumps(document(view)), now
            if got.status == 304:
                assert copies[got.headers["ETag"]] == copy
            else:
                assert got.headers["ETag"] not in copies
                copies[got.headers["ETag"]] = copy

    asyncio.run(visits())


@settings(deadline=None, max_examples=50)
@given(VIEWS)
def test_a_probe_and_the_document_agree_on_health(view: View) -> None:
    site = Site(lambda: view)
    state = document(view)
    assert state["health"]["good"] == (answer(site, asked("/healthz")).status == 200)
    assert state["readiness"]["good"] == (answer(site, asked("/readyz")).status == 200)
    assert document(still(view)) == state


def test_nothing_but_time_passing_is_the_same_state() -> None:
    times = iter((NOW, NOW + 7, NOW + 14))
    site = Site(lambda: replace(balanced(), now=next(times), driver_busy=3.0))
    tags = {answer(site, asked("/api/v1/state")).headers["ETag"] for _ in range(3)}
    assert len(tags) == 1


@pytest.mark.parametrize("path", TAGGED)
def test_tags_of_another_process_are_not_known(path: str) -> None:
    tag = answer(Site(balanced), asked(path)).headers["ETag"]
    assert answer(Site(balanced), asked(path, if_none_match=tag)).status == 200


# ---- texts


def test_what_is_no_text_costs_no_answer() -> None:
    """A lone surrogate: Python's reading of bytes that are not UTF-8, or an escape in a file."""
    lone = "\udcff\ud800"
    made = node("1xa100-40gb:all-balanced")
    gpu, uuid = made.inventory.gpus[0], made.inventory.gpus[0].mig_devices[0].uuid
    view = dataclasses.replace(
        made, inventory=replace(made.inventory, gpus=(replace(gpu, product=lone),))
    ).view({uuid: (Holder(lone, lone, lone),)}, samples(made.inventory))
    (listed, *_) = view.resources
    view = replace(
        view,
        resources=(replace(listed, registered=False, last_error=lone),),
        stuck=(lone,),
        snapshot=replace(view.snapshot, driver_error=Reason(Code.DRIVER_UNAVAILABLE, lone)),
    )
    site = Site(lambda: view, hostname=lone, dcgm_names=True)
    for path in ("/", "/api/v1/state", "/metrics", "/healthz", "/readyz"):
        got = answer(site, asked(path))
        assert got.status == (503 if path.endswith("z") else 200)
        assert got.body.decode()
        if path != "/metrics":
            assert "\ufffd\ufffd" in html.unescape(got.body.decode())


def test_the_page_is_loaded_with_the_first_request_for_it() -> None:
    loads = []

    def load() -> Page:
        loads.append(1)
        return load_page()

    site = Site(hostile, load_page=load)
    for path in ("/healthz", "/metrics", "/api/v1/state", "/nothing"):
        answer(site, asked(path))
    assert not loads
    assert b"<h1>" in answer(site, asked("/")).body
    answer(site, asked("/"))
    assert loads == [1]
