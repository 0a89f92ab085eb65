"""An endpoint keeps its resource registered, whatever kubelet does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from plugin.core.settings import MigStrategy, Settings
from plugin.kubelet.deviceplugin.endpoint import STREAM_SECONDS
from plugin.kubelet.deviceplugin.pacing import (
    FLAPPING,
    LONGEST_DELAY_SECONDS,
    WELL_SECONDS,
)

from .builders import mig_gpu, node, snapshot
from .kubelet_fakes import KUBELET
from .running_endpoint import Running, running, until
from .virtual_time import run, settle


def test_serve_register_list() -> None:
    async def scene() -> None:
        async with running() as on:
            assert on.status.registered
            assert (on.status.registrations, on.status.last_error) == (1, "")
            assert on.kubelet.lists == [["MIG-0-7-0", "MIG-0-8-0"]]
            await asyncio.sleep(3600)
            assert len(on.kubelet.registrations) == 1

    run(scene())


def test_waits_for_kubelets_socket() -> None:
    async def scene() -> None:
        async with running(kubelet_is_there=False) as on:
            await asyncio.sleep(60)
            assert not on.status.registered
            assert "kubelet.sock does not exist" in on.status.last_error
            assert on.directory.files == {}  # a kubelet that starts would delete it
            on.directory.create(KUBELET)
            await settle()
            assert on.status.registered

    run(scene())


async def _restart(on: Running) -> None:
    on.directory.restart_kubelet()


async def _delete_ours(on: Running) -> None:
    on.directory.delete(on.ours)


async def _end_stream(on: Running) -> None:
    for stream in list(on.kubelet.streams):
        stream.cancel()


@pytest.mark.parametrize(
    ("loss", "new_socket"), [(_restart, True), (_delete_ours, True), (_end_stream, False)]
)
def test_a_loss_is_mended_at_once_and_in_order(
    loss: Callable[[Running], Awaitable[None]], *, new_socket: bool
) -> None:
    """Streams end before the next registration: kubelet drops the newer one with the older."""

    async def scene() -> None:
        async with running() as on:
            await asyncio.sleep(WELL_SECONDS)
            began, first = on.now(), on.ours
            await loss(on)
            await settle()
            await settle()
            assert on.status.registered
            assert on.now() == began
            assert (on.ours != first) == new_socket
            order = [step for step in on.kubelet.order if step != "stop"]
            assert order == ["register", "stream ended", "register"]

    run(scene())


def test_a_stream_dropped_right_after_registering_is_not_hammered() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.drops_after = 0.001
            await _end_stream(on)
            await asyncio.sleep(120)
            count = len(on.kubelet.registrations)
            assert 120 / LONGEST_DELAY_SECONDS < count < 120 / LONGEST_DELAY_SECONDS * 2 + 10
            assert not on.status.registered
            assert on.status.last_error == "kubelet ended ListAndWatch"

    run(scene())


def test_what_flaps_is_not_ready_before_it_has_stayed_well() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.drops_after = 0.001
            await _end_stream(on)
            while len(on.kubelet.registrations) < FLAPPING + 3:
                await asyncio.sleep(0.1)
                if len(on.kubelet.registrations) > FLAPPING + 1:
                    assert not on.status.registered
            on.kubelet.drops_after = None
            await asyncio.sleep(LONGEST_DELAY_SECONDS)
            assert on.status.stream_since is not None
            assert not on.status.registered
            await asyncio.sleep(WELL_SECONDS)
            assert on.status.registered
            assert on.status.last_error == ""

    run(scene())


def test_one_line_of_log_for_each_change_of_state(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.refuses = "kubelet is not in the mood"
            await _end_stream(on)
            await asyncio.sleep(60)
            on.kubelet.refuses = "kubelet is tired"
            await asyncio.sleep(60)
            on.kubelet.refuses = ""
            await asyncio.sleep(60)

    with caplog.at_level(logging.INFO, logger="plugin.kubelet.deviceplugin.endpoint"):
        run(scene())
    assert [(r.getMessage(), getattr(r, "reason", None)) for r in caplog.records] == [
        ("serving", None),
        ("registered", None),
        ("registration lost", "kubelet ended ListAndWatch"),
        ("registration failed, retrying", "kubelet is not in the mood"),
        ("registration failed, retrying", "kubelet is tired"),
        ("registered", None),
    ]


def test_a_refusal_is_kubelets_own_sentence_and_the_pause_grows() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.refuses = "bad resource name"
            await _end_stream(on)
            await asyncio.sleep(120)
            times = on.kubelet.registrations[1:]
            pauses = [after - before for before, after in pairwise(times)]
            assert pauses[0] < 0.1
            assert all(pause >= LONGEST_DELAY_SECONDS / 2 for pause in pauses[-5:])
            assert not on.status.registered
            assert on.status.last_error == "bad resource name"
            # A new kubelet may do better, and is asked at once.
            on.kubelet.refuses = ""
            began = on.now()
            on.directory.restart_kubelet()
            await until(lambda: on.status.registered)
            assert on.now() - began < 0.1

    run(scene())


def test_accepted_and_never_watched() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.opens = False
            await _end_stream(on)
            await asyncio.sleep(STREAM_SECONDS + 1)
            assert "did not open ListAndWatch" in on.status.last_error
            on.kubelet.opens = True
            await asyncio.sleep(STREAM_SECONDS + LONGEST_DELAY_SECONDS)
            assert on.status.registered

    run(scene())


def test_a_server_that_cannot_start_is_tried_again() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.serving_error = "the path is too long"
            on.directory.delete(on.ours)
            await asyncio.sleep(1)
            assert on.status.last_error == "the path is too long"
            on.kubelet.serving_error = ""
            await asyncio.sleep(LONGEST_DELAY_SECONDS)
            assert on.status.registered

    run(scene())


def test_without_a_kubelet_what_is_served_counts_as_registered() -> None:
    async def scene() -> None:
        async with running(socket="", serving_error="no such directory") as on:
            assert not on.status.registered
            assert on.status.last_error == "no such directory"
            on.kubelet.serving_error = ""
            await asyncio.sleep(LONGEST_DELAY_SECONDS)
            assert on.status.registered
            assert on.kubelet.registrations == []

    run(scene())


def test_sockets_deleted_for_ever_do_not_make_it_spin() -> None:
    async def scene() -> None:
        async with running() as on:

            async def delete() -> None:
                while True:
                    on.directory.delete(on.ours)
                    await asyncio.sleep(0.02)

            deleting = asyncio.create_task(delete())
            await asyncio.sleep(120)
            assert len(on.kubelet.registrations) < 100
            assert not on.status.registered
            deleting.cancel()
            await asyncio.gather(deleting, return_exceptions=True)
            await asyncio.sleep(LONGEST_DELAY_SECONDS + WELL_SECONDS)
            assert on.status.registered

    run(scene())


def test_a_resource_that_goes_sends_an_empty_list_first() -> None:
    async def scene() -> None:
        async with running() as on:
            on.store.publish(
                snapshot(node(mig_gpu(0, "3g.20gb")), Settings(mig_strategy=MigStrategy.MIXED), 2)
            )
            await on.task
            assert on.kubelet.lists[-1] == []
            assert on.kubelet.order == ["register", "stream ended", "stop"]

    run(scene())


def test_a_server_is_stopped_also_when_the_end_comes_meanwhile() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.stop_seconds = 1.0
            on.directory.delete(on.ours)
            await until(lambda: "stream ended" in on.kubelet.order)
            on.task.cancel()
            await asyncio.gather(on.task, return_exceptions=True)
            assert on.kubelet.order.count("stop") == 1

    run(scene())


def test_an_end_that_comes_twice_leaves_no_server() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.stop_seconds = 1.0
            on.store.publish(snapshot(node(), generation=on.store.snapshot.generation + 1))
            await until(lambda: "stream ended" in on.kubelet.order)
            for _ in range(3):
                on.task.cancel()
                await asyncio.sleep(0.01)
            await asyncio.gather(on.task, return_exceptions=True)
            assert on.kubelet.order.count("stop") == 1

    run(scene())
