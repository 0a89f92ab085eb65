"""How the stand-in kubelet counts devices and allocates them to pods: one test per behaviour
seen on real kubelets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.errors import SimulationError

from .fake_plugin import LARGE, SMALL, Clock, node, pod

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


async def test_a_dead_plugin_keeps_capacity_for_five_minutes(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock=clock) as on:
        plugin = await on.plug()
        holder = await on.kubelet.admit(pod("a"))
        await plugin.die()
        await on.kubelet.wait_allocatable(SMALL, 0)
        clock.now += 300
        assert on.kubelet.node_status() == {SMALL: (4, 0)}
        clock.now += 1
        assert on.kubelet.node_status() == {SMALL: (0, 0)}
        assert holder.phase == "Running"
        late = await on.kubelet.admit(pod("b", bound=True))
        assert "cannot allocate unregistered device" in late.reason


async def test_an_empty_list_takes_a_resource_away_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        plugin.devices = {}
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 0)
        assert on.kubelet.node_status() == {SMALL: (0, 0)}


async def test_an_unhealthy_device_shows_in_pod_status_and_a_removed_one_does_not(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        results = [await on.kubelet.admit(pod(name)) for name in "abcd"]
        sick, gone = results[0].device_ids[0], results[1].device_ids[0]
        plugin.devices[sick] = "Unhealthy"
        del plugin.devices[gone]
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 2)
        assert on.kubelet.capacity(SMALL) == 3
        assert results[0].device_health == {sick: "Unhealthy"}
        assert results[1].device_health == {gone: "Healthy"}
        await plugin.die()
        await on.kubelet.wait_allocatable(SMALL, 0)
        assert results[2].device_health == {results[2].device_ids[0]: "Healthy"}
        assert {result.phase for result in results} == {"Running"}


async def test_between_two_ticks_the_scheduler_sends_pods_that_fail(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug(count=1)
        on.kubelet.hold_node_status()
        plugin.devices = {"5gb-0": "Unhealthy"}
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 0)
        failed = await on.kubelet.admit(pod("a"))
        assert (failed.phase, "no healthy devices present" in failed.reason) == ("Failed", True)
        on.kubelet.sync_node_status()
        pending = await on.kubelet.admit(pod("b"))
        assert pending.phase == "Pending"
        plugin.devices = {"5gb-0": "Healthy"}
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 1)
        await on.kubelet.reschedule()
        assert (failed.phase, pending.phase) == ("Failed", "Running")


# Allocation


async def test_pods_run_as_long_as_there_are_devices(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug(count=56)
        assert await on.kubelet.deploy("web", SMALL, 100) == (56, 44)
        held = [device for result in on.kubelet.pods.values() for device in result.device_ids]
        assert sorted(held) == sorted(plugin.devices)
        assert [len(ids) for ids in plugin.allocate_calls] == [1] * 56
        first = next(iter(on.kubelet.pods.values()))
        await on.kubelet.delete(first.pod)
        await on.kubelet.reschedule()
        phases = [result.phase for result in on.kubelet.pods.values()]
        assert (phases.count("Running"), phases.count("Pending")) == (56, 43)


async def test_devices_are_chosen_at_random_by_seed(tmp_path: Path) -> None:
    choices = []
    for run, seed in enumerate((1, 1, 2)):
        async with node(tmp_path / str(run), seed=seed) as on:
            await on.plug(count=40)
            choices.append((await on.kubelet.admit(pod("a", main={SMALL: 20}))).device_ids)
    assert choices[0] == choices[1] != choices[2]
    assert list(choices[0]) != sorted(choices[0])


async def test_preferred_allocation_is_advice_and_asked_for_even_the_last_device(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve(count=4)
        plugin.options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
        plugin.preferred = lambda _: ["nonsense", "5gb-2", "5gb-1"]
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        first = await on.kubelet.admit(pod("a", main={SMALL: 3}))
        assert {"5gb-1", "5gb-2"} < set(first.device_ids)
        last = await on.kubelet.admit(pod("b"))  # both preferred ids are taken
        assert set(first.device_ids) | set(last.device_ids) == set(plugin.devices)
        sizes = [
            (len(call.available_deviceIDs), call.allocation_size) for call in plugin.preferred_calls
        ]
        assert sizes == [(4, 3), (1, 1)]


async def test_an_error_from_preferred_allocation_fails_the_pod(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        plugin.options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        result = await on.kubelet.admit(pod("a"))
        assert result.phase == "Failed"
        assert "no advice today" in result.reason
        assert plugin.allocate_calls == []


async def test_an_error_from_allocate_fails_for_good_without_roll_back(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        small, large = await on.plug(count=1), await on.plug(LARGE, 1)
        large.error = "device 20gb-0 is withdrawn"
        result = await on.kubelet.admit(pod("a", main={SMALL: 1, LARGE: 1}))
        assert result.phase == "Failed"
        assert "FAILED_PRECONDITION: device 20gb-0 is withdrawn" in result.reason
        assert on.kubelet.holders(SMALL) == {"5gb-0": "default/a"}  # until another pod comes
        large.error = ""
        await on.kubelet.reschedule()
        assert result.phase == "Failed"
        again = await on.kubelet.admit(pod("b", main={SMALL: 1, LARGE: 1}))
        assert again.phase == "Running"
        assert on.kubelet.holders(SMALL) == {"5gb-0": "default/b"}
        assert len(small.allocate_calls) == 2


async def test_two_resources_in_a_container_add_up_but_for_equal_variables(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        for resource in (SMALL, LARGE):
            plugin = await on.plug(resource)
            plugin.response = pb.ContainerAllocateResponse(
                envs={"SHARED": resource, resource[-3:]: "own"},
                annotations={resource: "yes"},
                mounts=[
                    pb.Mount(
                        container_path=f"/run/{resource}", host_path="/dev/null", read_only=True
                    )
                ],
                devices=[
                    pb.DeviceSpec(container_path=path, host_path=path, permissions="rw")
                    for path in ("/dev/nvidiactl", f"/dev/{resource[-3:]}")
                ],
                cdi_devices=[pb.CDIDevice(name=f"nvidia.com/gpu={resource[-3:]}")],
            )
        result = await on.kubelet.admit(pod("a", main={SMALL: 1, LARGE: 2}, side={SMALL: 1}))
        main = result.containers["main"]
        assert [len(ids) for ids in main.device_ids.values()] == [1, 2]
        assert main.envs == {"SHARED": LARGE, "5gb": "own", "0gb": "own"}
        assert [node.container_path for node in main.devices] == [
            "/dev/nvidiactl",
            "/dev/5gb",
            "/dev/0gb",
        ]
        assert [mount.container_path for mount in main.mounts] == [f"/run/{SMALL}", f"/run/{LARGE}"]
        assert main.cdi_devices == ("nvidia.com/gpu=5gb", "nvidia.com/gpu=0gb")
        assert main.annotations == {SMALL: "yes", LARGE: "yes"}
        assert result.containers["side"].envs["SHARED"] == SMALL
        assert len(set(result.device_ids)) == 4
        assert not on.kubelet.violations


@pytest.mark.parametrize("change", ["gone", "unhealthy"])
async def test_a_restarted_container_gets_the_stored_answer_while_its_device_is_healthy(
    tmp_path: Path, change: str
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.plug()
        result = await on.kubelet.admit(pod("a"))
        plugin.response = pb.ContainerAllocateResponse(envs={"SHARED": "newer"})
        await on.kubelet.restart_container(result.pod, "main")
        assert result.containers["main"].envs == {"SHARED": SMALL}
        assert len(plugin.allocate_calls) == 1
        if change == "gone":
            del plugin.devices[result.device_ids[0]]
        else:
            plugin.devices[result.device_ids[0]] = "Unhealthy"
        plugin.send()
        await on.kubelet.wait_allocatable(SMALL, 3)
        await on.kubelet.restart_container(result.pod, "main")
        assert result.phase == "Failed"
        assert "no longer healthy" in result.reason


async def test_a_bound_pod_runs_without_a_device_when_nobody_registered(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        bound = await on.kubelet.admit(pod("a", bound=True))
        assert (bound.phase, bound.device_ids) == ("Running", ())
        scheduled = await on.kubelet.admit(pod("b"))
        assert (scheduled.phase, scheduled.reason) == ("Pending", f"Insufficient {SMALL}")


async def test_a_bound_pod_fails_when_all_devices_are_taken(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        await on.plug(count=1)
        await on.kubelet.admit(pod("a"))
        result = await on.kubelet.admit(pod("b", bound=True))
        assert "Requested: 1, Available: 0" in result.reason


async def test_pre_start_is_called_when_wanted_and_its_error_keeps_the_pod_waiting(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as on:
        plugin = await on.serve()
        plugin.options = pb.DevicePluginOptions(pre_start_required=True)
        await plugin.register()
        await on.kubelet.wait_allocatable(SMALL, 4)
        result = await on.kubelet.admit(pod("a"))
        assert plugin.pre_start_calls == plugin.allocate_calls
        plugin.error = "not yet"
        await on.kubelet.restart_container(result.pod, "main")
        assert (result.phase, result.waiting) == ("Pending", {"main"})
        plugin.error = ""
        await on.kubelet.restart_container(result.pod, "main")
        assert (result.phase, result.waiting, result.reason) == ("Running", set(), "")


async def test_pods_have_one_name_each(tmp_path: Path) -> None:
    async with node(tmp_path) as on:
        await on.kubelet.admit(pod("a"))
        with pytest.raises(SimulationError, match="exists"):
            await on.kubelet.admit(pod("a"))
        with pytest.raises(SimulationError, match="no pod"):
            await on.kubelet.delete(pod("b"))
