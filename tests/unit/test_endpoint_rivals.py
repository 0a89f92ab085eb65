"""An endpoint registers again after other plugins, and names live rivals."""

from __future__ import annotations

import asyncio
import logging

import pytest

from plugin.kubelet.deviceplugin.pacing import (
    LONGEST_SETTLE_SECONDS,
    SETTLE_SECONDS,
    WELL_SECONDS,
)
from plugin.kubelet.deviceplugin.rivals import POLL_SECONDS, UPDATE_SECONDS

from .running_endpoint import Running, running, until
from .virtual_time import run, settle

#: What NVIDIA's plugin and another instance of this one call their sockets.
NVIDIAS = "nvidia-mig-1g.5gb.sock"
OTHER_INSTANCE = "nvidia.com-mig-1g.5gb-0123abcd-1.sock"


async def _end_stream(on: Running) -> None:
    for stream in list(on.kubelet.streams):
        stream.cancel()


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
