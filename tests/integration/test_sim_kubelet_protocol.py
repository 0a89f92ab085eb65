"""Breaches of the protocol that the stand-in kubelet records, and its own refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.errors import SimulationError
from plugin.sim.kubelet.devices import is_extended_resource_name
from plugin.sim.kubelet.pods import PodResult

from .fake_plugin import SMALL, kinds, node, pod

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


@pytest.mark.parametrize(
    "device",
    [
        pb.Device(ID="", health="Healthy"),
        pb.Device(ID="x" * 64, health="Healthy"),
        pb.Device(ID="5gb-0", health="Healthy"),
        pb.Device(ID="fine", health="healthy"),
    ],
)
async def test_bad_lists_are_recorded(tmp_path: Path, device: pb.Device) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        message = plugin.list()
        message.devices.append(device)
        plugin.streams[0].put_nowait(message)
        await on.kubelet.wait_for(lambda: len(on.kubelet.messages) == 2)
        assert kinds(on.kubelet) - {"repeated-list"} == {"device-list"}


async def test_a_list_that_changes_nothing_is_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        plugin.devices = dict(reversed(plugin.devices.items()))
        plugin.send()
        await on.kubelet.wait_for(lambda: len(on.kubelet.messages) == 2)
        assert kinds(on.kubelet) == {"repeated-list"}


async def test_a_socket_name_used_twice_is_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        for _ in range(2):
            plugin = await on.serve(socket="same.sock")
            await plugin.register()
            await on.kubelet.wait_allocatable(SMALL, 4)
            await plugin.die()
            await on.kubelet.wait_allocatable(SMALL, 0)
        assert kinds(on.kubelet) == {"socket-name"}


async def test_an_endpoint_outside_the_directory_is_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        await plugin.register(endpoint=f"../dp/{plugin.socket}")
        assert kinds(on.kubelet) == {"endpoint"}


@pytest.mark.parametrize(
    "response",
    [
        pb.ContainerAllocateResponse(
            devices=[pb.DeviceSpec(container_path="/a", host_path="/a", permissions="rwx")]
        ),
        pb.ContainerAllocateResponse(
            devices=[pb.DeviceSpec(container_path="a", host_path="/a", permissions="rw")]
        ),
        pb.ContainerAllocateResponse(mounts=[pb.Mount(container_path="/a", host_path="a")]),
        pb.ContainerAllocateResponse(cdi_devices=[pb.CDIDevice(name="gpu0")]),
    ],
)
async def test_bad_answers_are_recorded(
    tmp_path: Path, response: pb.ContainerAllocateResponse
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        plugin.response = response
        assert (await on.kubelet.admit(pod("a"))).phase == "Running"
        assert kinds(on.kubelet) == {"allocate-response"}


async def test_a_time_out_tells_the_state(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        await on.kubelet.admit(pod("a"))
        with pytest.raises(
            TimeoutError, match=rf"(?s){SMALL}: capacity 4.*{plugin.socket}.*default/a: Running"
        ):
            await on.kubelet.wait_allocatable(SMALL, 5, timeout=0.01)


async def test_a_second_start_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        with pytest.raises(SimulationError, match="running already"):
            await on.kubelet.start()


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        (SMALL, True),
        ("nvidia.com/gpu", True),
        ("nvidia.com/mig-1g.10gb.me", True),
        ("nvidia.com/mig-1g.10gb+me", False),
        ("nvidia.com/", False),
        ("Nvidia.com/gpu", False),
        ("nvidia.com/a/b", False),
        ("nvidia.com/-gpu", False),
        ("nvidia.com/" + "x" * 63, True),
        ("nvidia.com/" + "x" * 64, False),
        ("sub.kubernetes.io/gpu", False),
        ("a" * 64 + ".com/gpu", False),
        (".".join(["a" * 60] * 4) + "/gpu", True),
        (".".join(["a" * 61] * 4) + "/gpu", False),
    ],
)
async def test_names(name: str, *, taken: bool) -> None:
    assert is_extended_resource_name(name) is taken


async def test_a_result_lists_its_ids() -> None:
    assert PodResult(pod("a")).device_ids == ()
