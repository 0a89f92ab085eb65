"""Allocate and preferred allocation through the real daemon."""

from __future__ import annotations

import grpc
import pytest

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.sim.hardware.engine import parse_node
from plugin.sim.kubelet.kubelet import SimKubelet
from plugin.sim.kubelet.pods import Pod

from .conftest import StartDaemon, plugin_client, sockets
from .waiting import SECONDS

ONE_SLICE = "nvidia.com/mig-1g.5gb"
NODE = "p4d.24xlarge:all-1g.5gb"
CONTROL = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]

pytestmark = pytest.mark.asyncio


def _request(*containers: list[str]) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        container_requests=[pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
    )


async def test_a_pod_gets_its_own_device(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    running, pending = await kubelet.deploy("slices", ONE_SLICE, 100)
    assert (running, pending) == (56, 44)
    given = [pod.containers["main"] for pod in kubelet.pods.values() if pod.phase == "Running"]
    assert len({container.envs["CUDA_VISIBLE_DEVICES"] for container in given}) == 56
    for container in given:
        assert container.envs["NVIDIA_VISIBLE_DEVICES"] == container.envs["CUDA_VISIBLE_DEVICES"]
        assert {node.permissions for node in container.devices} == {"rw"}
        paths = [node.container_path for node in container.devices]
        assert paths[:3] == CONTROL
        parent, gi_node, ci_node = paths[3:]
        gpu = int(parent.removeprefix("/dev/nvidia"))
        minor = int(gi_node.removeprefix("/dev/nvidia-caps/nvidia-cap"))
        assert (minor - 3 - 135 * gpu) % 9 == 0
        assert ci_node == f"/dev/nvidia-caps/nvidia-cap{minor + 1}"


async def test_device_root_on_the_host(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon(NODE, NVIDIA_DRIVER_ROOT="/run/nvidia/driver")
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    pod = await kubelet.admit(Pod("p", containers={"main": {ONE_SLICE: 1}}))
    for node in pod.containers["main"].devices:
        assert node.host_path == f"/run/nvidia/driver{node.container_path}"


async def test_volume_mounts_by_index(kubelet: SimKubelet, start_daemon: StartDaemon) -> None:
    await start_daemon(
        NODE,
        "--device-list-strategy=volume-mounts",
        "--device-id-strategy=index",
        "--pass-device-specs=false",
        "--cuda-visible-devices=false",
    )
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    pod = await kubelet.admit(Pod("p", containers={"main": {ONE_SLICE: 2}}))
    container = pod.containers["main"]
    assert container.envs == {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}
    assert container.devices == ()
    assert [(m.container_path, m.host_path) for m in container.mounts] == [
        ("/var/run/nvidia-container-devices/0:0", "/dev/null"),
        ("/var/run/nvidia-container-devices/0:1", "/dev/null"),
    ]


async def test_refusals_have_a_status_and_name_the_id(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    known = next(iter(kubelet.devices(ONE_SLICE)))
    async with plugin_client(sockets(kubelet)[0]) as client:
        for request, code, expected in (
            (_request(["MIG-unknown"]), grpc.StatusCode.NOT_FOUND, "MIG-unknown"),
            (_request([known], []), grpc.StatusCode.INVALID_ARGUMENT, "no device ids"),
            (_request([known, known]), grpc.StatusCode.INVALID_ARGUMENT, known),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.Allocate(request)
            assert refused.value.code() is code
            assert expected in str(refused.value.details())
        # Refusals leave no trace: the same device can be had, and had again.
        first = await client.Allocate(_request([known]))
        assert first == await client.Allocate(_request([known]))


async def test_withdrawn_devices_are_refused_with_the_reason(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    """A GPU that carries MIG devices is on the node but in no list."""
    await start_daemon("p4d.24xlarge:0=1g.5gb*7", MIG_STRATEGY="none")
    await kubelet.wait_allocatable("nvidia.com/gpu", 8, SECONDS)
    slot = next(parse_node("p4d.24xlarge:0=1g.5gb*7").gpus[0].devices())
    async with plugin_client(sockets(kubelet)[0]) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.Allocate(_request([slot.ci.uuid]))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "withdrawn" in str(refused.value.details())


async def test_several_containers_and_devices(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    ids = list(kubelet.devices(ONE_SLICE))
    async with plugin_client(sockets(kubelet)[0]) as client:
        response = await client.Allocate(_request([ids[1], ids[0]], [ids[9]]))
    one, two = response.container_responses
    assert one.envs["CUDA_VISIBLE_DEVICES"] == f"{ids[0]},{ids[1]}"
    paths = [device.container_path for device in one.devices]
    assert (
        len(paths) == len(set(paths)) == 3 + 1 + 2 * 2
    )  # both are on one GPU, whose node is named once
    assert two.envs["CUDA_VISIBLE_DEVICES"] == ids[9]


@pytest.mark.parametrize(("policy", "gpus"), [("packed", 1), ("distributed", 7)])
async def test_policies(
    kubelet: SimKubelet, start_daemon: StartDaemon, policy: str, gpus: int
) -> None:
    await start_daemon(NODE, ALLOCATION_POLICY=policy)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    pod = await kubelet.admit(Pod("p", containers={"main": {ONE_SLICE: 7}}))
    parents = {d.container_path for d in pod.containers["main"].devices} - set(CONTROL)
    assert len({path for path in parents if "caps" not in path}) == gpus


async def test_preferred_allocation_never_fails(
    kubelet: SimKubelet, start_daemon: StartDaemon
) -> None:
    await start_daemon(NODE)
    await kubelet.wait_allocatable(ONE_SLICE, 56, SECONDS)
    ids = list(kubelet.devices(ONE_SLICE))
    odd = [
        (ids, [], 60),
        (ids[:2], ids[5:7], 1),
        ([], [], 3),
        (["MIG-gone", *ids[:2]], ["MIG-gone"], 3),
        (ids, [], -1),
        (ids * 2, [], 4),
    ]
    async with plugin_client(sockets(kubelet)[0]) as client:
        for available, must, size in odd:
            request = pb.ContainerPreferredAllocationRequest(
                available_deviceIDs=available, must_include_deviceIDs=must, allocation_size=size
            )
            response = await client.GetPreferredAllocation(
                pb.PreferredAllocationRequest(container_requests=[request])
            )
            (answer,) = response.container_responses
            assert len(answer.deviceIDs) == len(set(answer.deviceIDs))
            assert set(must) <= set(answer.deviceIDs)
