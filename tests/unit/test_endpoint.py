"""An endpoint keeps its resource registered, whatever kubelet, its socket and other plugins do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import ResourceStatus
from plugin.kubelet.deviceplugin.calls import CallCounts
from plugin.kubelet.deviceplugin.endpoint import STREAM_SECONDS, Endpoint
from plugin.kubelet.deviceplugin.pacing import (
    FLAPPING,
    LONGEST_DELAY_SECONDS,
    LONGEST_SETTLE_SECONDS,
    SETTLE_SECONDS,
    WELL_SECONDS,
)
from plugin.kubelet.deviceplugin.rivals import POLL_SECONDS, UPDATE_SECONDS, Rivals
from plugin.kubelet.deviceplugin.servicer import ResourceServicer
from plugin.loops.store import Store

from .builders import mig_gpu, node, snapshot
from .kubelet_fakes import KUBELET, FakeDirectory, FakeKubelet
from .virtual_time import run, settle

RESOURCE = "nvidia.com/mig-1g.5gb"
#: What NVIDIA's plugin and another instance of this one call their sockets.
NVIDIAS = "nvidia-mig-1g.5gb.sock"
OTHER_INSTANCE = "nvidia.com-mig-1g.5gb-0123abcd-1.sock"


@dataclass
class Running:
    directory: FakeDirectory
    kubelet: FakeKubelet
    endpoint: Endpoint
    store: Store
    task: asyncio.Task[None]

    @property
    def status(self) -> ResourceStatus:
        return self.endpoint.status()

    @property
    def ours(self) -> str:
        return self.kubelet.endpoints[-1]

    def now(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(*, kubelet_is_there: bool = True) -> AsyncIterator[Running]:
    directory = FakeDirectory()
    kubelet = FakeKubelet(directory)
    if kubelet_is_there:
        directory.create(KUBELET)
    store = Store(snapshot(node(mig_gpu(0, "1g.5gb", "1g.5gb"))))
    rivals = Rivals(
        directory,
        KUBELET,
        lambda: (RESOURCE,),
        accepts=directory.accepts,
        wall_clock=asyncio.get_running_loop().time,
    )
    endpoint = Endpoint(
        RESOURCE,
        store,
        directory,
        KUBELET,
        ResourceServicer(RESOURCE, store, CallCounts(), lambda _: None),
        rivals,
        serve=kubelet.serve,
        register=kubelet.register,
    )
    looking = asyncio.create_task(rivals.run())
    task = asyncio.create_task(endpoint.run())
    await settle()
    yield Running(directory, kubelet, endpoint, store, task)
    for each in (task, looking):
        each.cancel()
    await asyncio.gather(task, looking, return_exceptions=True)
    assert not [name for name in directory.files if name in kubelet.endpoints]


async def until(condition: Callable[[], bool]) -> None:
    """Let time pass until `condition` holds; a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 — time costs nothing here
            await asyncio.sleep(0.05)


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


# ---- rivals


@pytest.mark.parametrize("name", [NVIDIAS, OTHER_INSTANCE, "plugin.sock"])
@pytest.mark.parametrize("end", ["vanishes", "is killed"])
@pytest.mark.parametrize("came", ["before", "after"])
def test_a_plugin_that_goes_is_followed_by_one_registration(name: str, end: str, came: str) -> None:
    async def scene() -> None:
        async with running() as on:
            if came == "before":
                on.directory.create(name)
                await asyncio.sleep(1)
                await _end_stream(on)
            await asyncio.sleep(WELL_SECONDS)
            if came == "after":
                on.directory.create(name)
            await asyncio.sleep(WELL_SECONDS)
            registrations, began = len(on.kubelet.registrations), on.now()
            if end == "vanishes":
                on.directory.delete(name)
            else:
                on.directory.dead.add(name)
            await until(lambda: len(on.kubelet.registrations) > registrations)
            assert SETTLE_SECONDS <= on.now() - began <= SETTLE_SECONDS + POLL_SECONDS + 0.1
            assert [step for step in on.kubelet.order if step != "stop"][-2:] == [
                "stream ended",
                "register",
            ]
            on.directory.delete(name)  # also when somebody cleans up what a killed one left
            await asyncio.sleep(3600)
            assert len(on.kubelet.registrations) == registrations + 1

    run(scene())


@pytest.mark.parametrize(
    "name", ["nvidia-mig-3g.20gb.sock", "nvidia.com-gpu-0123abcd-7.sock", "nvidia-gpu.sock"]
)
def test_a_plugin_of_another_resource_is_no_concern(name: str) -> None:
    async def scene() -> None:
        async with running() as on:
            on.directory.create(name)
            await asyncio.sleep(60)
            assert on.status.registered
            on.directory.delete(name)
            await asyncio.sleep(60)
            assert len(on.kubelet.registrations) == 1

    run(scene())


def test_a_kubelet_restart_is_one_registration_however_late_deletions_are_read() -> None:
    async def scene() -> None:
        async with running() as on:
            names = [NVIDIAS, "plugin.sock"]
            for name in names:
                on.directory.create(name)
            await asyncio.sleep(WELL_SECONDS)
            for name in names:
                on.directory.delete(name, announced=False)
            on.directory.restart_kubelet()
            await asyncio.sleep(0.1)
            assert len(on.kubelet.registrations) == 2
            for name in names:
                on.directory.announce(name)
            await asyncio.sleep(60)
            assert len(on.kubelet.registrations) == 2

    run(scene())


def test_one_that_came_and_went_between_two_looks_counts() -> None:
    async def scene() -> None:
        async with running() as on:
            await asyncio.sleep(WELL_SECONDS)
            on.directory.announce("plugin.sock")
            await asyncio.sleep(60)
            assert len(on.kubelet.registrations) == 2

    run(scene())


def test_several_that_go_together_cause_one_registration() -> None:
    async def scene() -> None:
        async with running() as on:
            names = [f"plugin-{number}.sock" for number in range(5)]
            for name in names:
                on.directory.create(name)
            await asyncio.sleep(WELL_SECONDS)
            for name in names:
                on.directory.delete(name)
                await asyncio.sleep(SETTLE_SECONDS / 2)
            await asyncio.sleep(60)
            assert len(on.kubelet.registrations) == 2

    run(scene())


@pytest.mark.parametrize("seconds", [0.5, 6.0, 11.0, 30.0])
def test_a_plugin_in_a_crash_loop_costs_few_registrations(seconds: float) -> None:
    async def scene() -> None:
        async with running() as on:
            departures = []
            for _ in range(600):
                on.directory.create("plugin.sock")
                await asyncio.sleep(seconds / 2)
                on.directory.delete("plugin.sock")
                departures.append(on.now())
                await asyncio.sleep(seconds / 2)
            await asyncio.sleep(LONGEST_SETTLE_SECONDS)
            minutes = (on.now() - on.kubelet.registrations[0]) / 60
            assert len(on.kubelet.registrations) < 7 * minutes + 4
            # and pods do not fail for longer than that needs
            for gone in departures:
                mended = next(at for at in on.kubelet.registrations if at >= gone)
                assert mended - gone <= LONGEST_SETTLE_SECONDS + 0.1

    run(scene())


def test_rare_departures_are_each_answered_at_once() -> None:
    async def scene() -> None:
        async with running() as on:
            for _ in range(20):
                await asyncio.sleep(WELL_SECONDS + 1)
                on.directory.create("plugin.sock")
                await settle()
                on.directory.delete("plugin.sock")
                gone = on.now()
                await asyncio.sleep(WELL_SECONDS)
                assert gone < on.kubelet.registrations[-1] <= gone + SETTLE_SECONDS + 0.1

    run(scene())


@pytest.mark.parametrize("name", [NVIDIAS, OTHER_INSTANCE, "plugin.sock"])
def test_from_a_departure_to_the_next_registration_we_are_not_ready(name: str) -> None:
    """Kubelet sends pods to the plugin that has gone, though our stream is open."""

    async def scene() -> None:
        async with running() as on:
            on.directory.create(name)
            await asyncio.sleep(WELL_SECONDS)
            on.directory.delete(name)
            await settle()
            assert not on.status.registered
            assert f"gone with its socket {name}, " in on.status.last_error
            assert on.status.last_error.endswith("registering again within 1 s")
            on.kubelet.refuses = "kubelet is not in the mood"
            await asyncio.sleep(SETTLE_SECONDS + 1)
            assert not on.status.registered
            assert on.status.last_error == "kubelet is not in the mood"
            on.kubelet.refuses = ""
            await asyncio.sleep(WELL_SECONDS)
            assert (on.status.registered, on.status.last_error) == (True, "")

    run(scene())


def test_it_is_said_how_long_a_departure_is_waited_out() -> None:
    async def scene() -> None:
        async with running() as on:
            for seconds in (1, 2, 4, 8, 10, 10):
                await asyncio.sleep(0.1)
                on.directory.create("plugin.sock")
                await settle()
                on.directory.delete("plugin.sock")
                await settle()
                assert on.status.last_error.endswith(f"registering again within {seconds} s")
                await asyncio.sleep(seconds - 0.5)
                assert on.status.last_error.endswith("registering again within 1 s")
                await asyncio.sleep(1)
                assert on.status.registered

    run(scene())


def test_a_departure_while_we_register_is_followed_by_another_registration() -> None:
    async def scene() -> None:
        async with running() as on:
            on.kubelet.opens = False
            await _end_stream(on)
            await asyncio.sleep(0.1)
            on.directory.announce("plugin.sock")
            await settle()
            on.kubelet.open_stream()
            await settle()
            registrations = len(on.kubelet.registrations)
            assert not on.status.registered
            assert "plugin.sock" in on.status.last_error
            await asyncio.sleep(SETTLE_SECONDS + 0.1)
            assert len(on.kubelet.registrations) == registrations + 1

    run(scene())


def test_the_log_names_the_plugin_that_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with running() as on:
            await asyncio.sleep(1)
            on.directory.announce("plugin.sock")
            await asyncio.sleep(WELL_SECONDS)

    with caplog.at_level(logging.WARNING, logger="plugin.kubelet.deviceplugin.endpoint"):
        run(scene())
    assert [(r.getMessage(), getattr(r, "reason", None)) for r in caplog.records] == [
        (
            "registration lost",
            (
                "another device plugin has gone with its socket plugin.sock, to which kubelet may "
                "still send pods; registering again now"
            ),
        )
    ]


@pytest.mark.parametrize(("name", "seconds"), [(NVIDIAS, 0.0), (OTHER_INSTANCE, UPDATE_SECONDS)])
def test_a_live_rival_is_named_and_we_are_not_ready(name: str, seconds: float) -> None:
    async def scene() -> None:
        async with running() as on:
            on.directory.create(name)
            await settle()
            assert on.status.registered == bool(seconds)  # an update has both for a while
            await asyncio.sleep(seconds)
            assert (on.status.registered, on.status.rival) == (False, name)
            assert name in on.status.last_error
            on.directory.delete(name)
            await asyncio.sleep(WELL_SECONDS)
            assert (on.status.registered, on.status.rival) == (True, "")

    run(scene())
