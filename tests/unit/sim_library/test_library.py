"""The simulated NVML library, called by pynvml and other callers: handles, structures, profiles."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint
from typing import Any

import pynvml
import pytest

from plugin.driver.nvml import library as nvml
from plugin.driver.nvml.binding import using
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode
from plugin.sim.nvml.library import SimLibrary
from tests.simulated import scan

from .conftest import fails

FIELDS = (
    *("id", "sliceCount", "instanceCount", "multiprocessorCount", "copyEngineCount"),
    *("decoderCount", "jpegCount", "ofaCount", "memorySizeMB"),
)

#: Profiles of an H100 by NVML's index: the fields above, and the name.
H100 = {
    0: (19, 1, 7, 16, 1, 1, 1, 0, 9984, "MIG 1g.10gb"),
    1: (14, 2, 3, 32, 2, 2, 2, 0, 20096, "MIG 2g.20gb"),
    2: (9, 3, 2, 60, 3, 3, 3, 0, 40448, "MIG 3g.40gb"),
    3: (5, 4, 1, 64, 4, 4, 4, 0, 40448, "MIG 4g.40gb"),
    4: (0, 7, 1, 132, 8, 7, 7, 1, 81152, "MIG 7g.80gb"),
    7: (20, 1, 1, 16, 1, 1, 1, 1, 9984, "MIG 1g.10gb+me"),
    9: (15, 1, 4, 26, 1, 1, 1, 0, 20096, "MIG 1g.20gb"),
}


def test_nothing_answers_before_initialisation(node: SimNode) -> None:
    library = SimLibrary(node)
    count = c_uint(99)
    assert library.nvmlDeviceGetCount_v2(byref(count)) == Code.UNINITIALIZED
    assert library.nvmlInit_v2() == Code.SUCCESS
    assert library.nvmlDeviceGetCount_v2(byref(count)) == Code.SUCCESS
    assert count.value == 2
    assert library.nvmlShutdown() == Code.SUCCESS
    assert library.nvmlDeviceGetCount_v2(byref(count)) == Code.UNINITIALIZED


def test_functions_that_are_not_there_are_missing_as_from_a_loaded_library(node: SimNode) -> None:
    library = SimLibrary(node, without=["nvmlDeviceGetName"])
    for name in ("nvmlDeviceGetName", "nvmlNoSuchFunction"):
        with pytest.raises(AttributeError, match=name):
            getattr(library, name)
    with using(library):
        nvml.initialise()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        with fails(Code.FUNCTION_NOT_FOUND):
            pynvml.nvmlDeviceGetName(handle)
        nvml.shut_down()


@pytest.mark.parametrize(
    "arguments",
    [
        ("0", byref(c_uint())),  # a handle that is text
        (0, byref(c_uint())),  # a handle that is a number
        (pynvml.c_nvmlDevice_t(), byref(c_int())),  # a result of another type
        (pynvml.c_nvmlDevice_t(), 5),
        (pynvml.c_nvmlGpuInstance_t(), byref(c_uint())),  # another kind of handle
    ],
)
def test_arguments_of_a_wrong_type_never_arrive(
    library: SimLibrary, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(ctypes.ArgumentError):
        library.nvmlDeviceGetMinorNumber(*arguments)


def test_too_few_arguments_are_refused(library: SimLibrary) -> None:
    with pytest.raises(TypeError):
        library.nvmlDeviceGetCount_v2()


def test_null_pointers_and_made_up_handles_are_invalid(library: SimLibrary, gpu: Any) -> None:
    assert library.nvmlDeviceGetCount_v2(None) == Code.INVALID_ARGUMENT
    assert library.nvmlDeviceGetMinorNumber(gpu, None) == Code.INVALID_ARGUMENT
    assert library.nvmlDeviceGetUUID(gpu, None, 96) == Code.INVALID_ARGUMENT
    for handle in (pynvml.c_nvmlDevice_t(), ctypes.cast(0x1234, pynvml.c_nvmlDevice_t)):
        assert library.nvmlDeviceGetMinorNumber(handle, byref(c_uint())) == Code.INVALID_ARGUMENT
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, 1)
    disguised = ctypes.cast(instance, pynvml.c_nvmlDevice_t)
    assert library.nvmlDeviceGetMinorNumber(disguised, byref(c_uint())) == Code.INVALID_ARGUMENT


def test_texts_need_room_for_their_end(library: SimLibrary, gpu: Any, node: SimNode) -> None:
    length = len(node.gpu(0).uuid)
    buffer = ctypes.create_string_buffer(b"#" * 96, 96)
    assert library.nvmlDeviceGetUUID(gpu, buffer, length) == Code.INSUFFICIENT_SIZE
    assert buffer.raw == b"#" * 96
    assert library.nvmlDeviceGetUUID(gpu, buffer, length + 1) == Code.SUCCESS
    assert buffer.value.decode() == node.gpu(0).uuid
    assert buffer.raw[length + 1 :] == b"#" * (96 - length - 1)


def test_structures_of_unknown_versions_are_refused(library: SimLibrary, gpu: Any) -> None:
    memory = pynvml.c_nvmlMemory_v2_t()
    memory.version = 0x03000028
    assert library.nvmlDeviceGetMemoryInfo_v2(gpu, byref(memory)) == Code.ARGUMENT_VERSION_MISMATCH
    profile = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
    profile.version = 1
    assert (
        library.nvmlDeviceGetGpuInstanceProfileInfoV(gpu, 0, byref(profile))
        == Code.ARGUMENT_VERSION_MISMATCH
    )


@pytest.mark.usefixtures("library")
def test_error_strings() -> None:
    assert pynvml.nvmlErrorString(Code.GPU_IS_LOST) == "GPU is lost"
    assert pynvml.nvmlErrorString(4242) == "Unknown Error"


@pytest.mark.usefixtures("library")
def test_the_system() -> None:
    assert pynvml.nvmlSystemGetDriverVersion() == "580.159.04"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.580.159.04"
    assert pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13000


def test_a_gpu_describes_itself(gpu: Any, node: SimNode) -> None:
    state = node.gpu(0)
    assert pynvml.nvmlDeviceGetName(gpu) == "NVIDIA H100 80GB HBM3"
    assert pynvml.nvmlDeviceGetUUID(gpu) == state.uuid
    assert (pynvml.nvmlDeviceGetIndex(gpu), pynvml.nvmlDeviceGetMinorNumber(gpu)) == (0, 0)
    assert pynvml.nvmlDeviceGetCudaComputeCapability(gpu) == (9, 0)
    pci = pynvml.nvmlDeviceGetPciInfo(gpu)
    assert (pci.busId, pci.busIdLegacy) == ("00000000:10:1C.0", "0000:10:1C.0")
    assert (pci.domain, pci.bus, pci.device, pci.pciDeviceId) == (0, 0x10, 0x1C, 0x233010DE)
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).total == 85520809984
    extended = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
    assert extended.total == extended.used + extended.free + extended.reserved
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetNumaNodeId(gpu)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetAttributes(gpu)
    assert pynvml.nvmlDeviceIsMigDeviceHandle(gpu).value == 0


def test_handles_by_uuid(library: SimLibrary, node: SimNode) -> None:
    uuid = scan(node).gpus[0].mig_devices[1].uuid
    for wanted in (node.gpu(1).uuid, uuid):
        assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(wanted)) == wanted
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-0")
    with fails(Code.INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetHandleByIndex(2)
    assert (
        library.nvmlDeviceGetHandleByUUID(c_char_p(None), byref(pynvml.c_nvmlDevice_t()))
        == Code.INVALID_ARGUMENT
    )


def test_a_mig_device_describes_itself(gpu: Any, mig: Any, node: SimNode) -> None:
    state = scan(node).gpus[0].mig_devices[0]
    assert pynvml.nvmlDeviceGetUUID(mig) == state.uuid
    assert pynvml.nvmlDeviceIsMigDeviceHandle(mig).value == 1
    assert pynvml.nvmlDeviceGetGpuInstanceId(mig) == state.gi
    assert pynvml.nvmlDeviceGetComputeInstanceId(mig) == state.ci
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
    assert pynvml.nvmlDeviceGetUUID(parent) == state.gpu_uuid
    attributes = pynvml.nvmlDeviceGetAttributes(mig)
    assert (attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount) == (3, 3)
    assert (attributes.multiprocessorCount, attributes.memorySizeMB) == (60, 40448)
    assert (attributes.sharedCopyEngineCount, attributes.sharedJpegCount) == (3, 3)
    assert pynvml.nvmlDeviceGetMemoryInfo(mig).total == 40448 << 20
    with fails(Code.INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetMinorNumber(mig)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetPowerUsage(mig)
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstanceId(gpu)


def test_mig_mode_and_holes(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)
    off = pynvml.nvmlDeviceGetHandleByIndex(1)
    assert pynvml.nvmlDeviceGetMigMode(off) == [0, 0]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(off) == 0
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(off, 0)


def test_a_handle_of_a_destroyed_device_is_stale(mig: Any, node: SimNode) -> None:
    node.set_geometry(0, ["3g.40gb", "1g.10gb"])
    with fails(Code.NOT_FOUND):
        pynvml.nvmlDeviceGetUUID(mig)


@pytest.mark.usefixtures("library")
def test_profiles_answer_as_recorded() -> None:
    handle = pynvml.nvmlDeviceGetHandleByIndex(1)  # MIG is off there: the answers are the same
    for index in range(18):
        for version in (1, 2):
            if index not in H100:
                with fails(Code.INVALID_ARGUMENT if index == 17 else Code.NOT_SUPPORTED):
                    pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=version)
                continue
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=version)
            found = [getattr(info, field) for field in FIELDS]
            assert tuple(found) == H100[index][:-1]
            assert version == 1 or info.name == H100[index][-1]
            assert (
                pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(handle, info.id)
                == info.instanceCount
            )


def test_possible_placements_are_counted_then_listed(library: SimLibrary, gpu: Any) -> None:
    count = c_uint()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 15, None, byref(count))
    assert count.value == 4
    array = (pynvml.c_nvmlGpuInstancePlacement_t * 4)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 15, array, byref(count))
    assert [(at.start, at.size) for at in array] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    short = library.nvmlDeviceGetGpuInstancePossiblePlacements_v2(gpu, 15, array, byref(c_uint(3)))
    assert short == Code.INSUFFICIENT_SIZE
    with fails(Code.NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, 77, None, byref(count))
