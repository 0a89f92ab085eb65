"""The CDI document: devices, names, nodes, mounts and the version that they need."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.cdi.names import ALL, annotation, file_name, qualified
from plugin.core.cdi.remains import remains
from plugin.core.cdi.specification import (
    DriverFiles,
    Entry,
    Library,
    Program,
    devices,
    documents,
    entries,
    missing_control_nodes,
    needed_version,
)
from plugin.core.inventory.model import Inventory
from plugin.core.settings import CdiVendor, DeviceIdStrategy, MigStrategy, Settings

from .builders import CONTROL, gpu, mig_device, mig_gpu, node

SCHEMA = Path(__file__).resolve().parents[2] / "plugin/cdi/schema.json"
VALIDATOR = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
FOLDER = "/usr/lib/x86_64-linux-gnu"
FILES = DriverFiles(
    "/",
    "580.1",
    "x86_64",
    (
        Library(f"{FOLDER}/libcuda.so.580.1", "libcuda.so.1"),
        Library(f"{FOLDER}/libnvidia-gpucomp.so.580.1", "libnvidia-gpucomp.so.580.1"),
    ),
    (Program("nvidia-smi", "/opt/bin/nvidia-smi"),),
)
NODE = node(mig_gpu(0, "1g.5gb", "3g.20gb"), gpu(1))
MIG, GPU = "nvidia.com/mig", "nvidia.com/gpu"
MIXED = Settings()
NONE = Settings(mig_strategy=MigStrategy.NONE)
AS_PLUGIN = Settings(cdi_vendor=CdiVendor.DEVICE_PLUGIN)


def made(
    inventory: Inventory = NODE,
    settings: Settings = MIXED,
    files: DriverFiles = FILES,
    dev_root: str = "/",
) -> Mapping[str, dict[str, Any]]:
    found = entries(inventory, settings)
    return documents(found.values(), inventory.control_nodes, files, dev_root)


def nodes(document: dict[str, Any], name: str) -> list[str]:
    (device,) = [device for device in document["devices"] if device["name"] == name]
    return [each["path"] for each in device["containerEdits"]["deviceNodes"]]


def mounts(document: dict[str, Any]) -> dict[str, str]:
    return {
        mount["containerPath"]: mount["hostPath"] for mount in document["containerEdits"]["mounts"]
    }


def test_devices_have_their_uuid_and_their_index_as_names_and_their_nodes() -> None:
    found = made()
    assert list(found) == [MIG, GPU]
    mig = found[MIG]
    first, second = NODE.gpus[0].mig_devices
    assert [device["name"] for device in mig["devices"]] == [
        *(first.uuid, "0:0", second.uuid, "0:1", ALL)
    ]
    assert nodes(mig, first.uuid) == nodes(mig, "0:0") == list(first.device_nodes)
    assert nodes(mig, ALL) == list(dict.fromkeys((*first.device_nodes, *second.device_nodes)))
    assert [device["name"] for device in found[GPU]["devices"]] == ["GPU-1", "1", ALL]
    assert nodes(found[GPU], ALL) == ["/dev/nvidia1"]


def test_nodes_have_no_numbers_and_their_host_path_only_where_it_differs() -> None:
    device = made()[GPU]["devices"][0]["containerEdits"]["deviceNodes"]
    assert device == [{"path": "/dev/nvidia1", "permissions": "rw"}]
    device = made(dev_root="/run/driver/")[GPU]["devices"][0]["containerEdits"]["deviceNodes"]
    assert device == [
        {"path": "/dev/nvidia1", "hostPath": "/run/driver/dev/nvidia1", "permissions": "rw"}
    ]


def test_every_container_gets_the_control_nodes_and_no_device_of_nvidias_runtime() -> None:
    common = made()[MIG]["containerEdits"]
    assert [each["path"] for each in common["deviceNodes"]] == list(CONTROL)
    assert common["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert "hooks" not in common


def test_without_hooks_a_library_stands_where_the_loader_looks_under_its_soname() -> None:
    found = mounts(made(files=replace(FILES, root="/run/nvidia/driver"))[MIG])
    below = f"/run/nvidia/driver{FOLDER}"
    for folder in (FOLDER, "/usr/lib64"):
        assert found.pop(f"{folder}/libcuda.so.1") == f"{below}/libcuda.so.580.1"
        assert found.pop(f"{folder}/libcuda.so") == f"{below}/libcuda.so.580.1"
        gpucomp = "libnvidia-gpucomp.so.580.1"
        assert found.pop(f"{folder}/{gpucomp}") == f"{below}/{gpucomp}"
    assert found == {"/usr/bin/nvidia-smi": "/run/nvidia/driver/opt/bin/nvidia-smi"}


@pytest.mark.parametrize(
    ("hook", "command"),
    [
        ("/usr/bin/nvidia-cdi-hook", ["nvidia-cdi-hook"]),
        ("/usr/bin/nvidia-ctk", ["nvidia-ctk", "hook"]),
    ],
)
def test_with_hooks_libraries_stay_where_they_are(hook: str, command: list[str]) -> None:
    document = made(files=replace(FILES, hook=hook))[MIG]
    assert set(mounts(document)) == {
        *(library.path for library in FILES.libraries),
        "/usr/bin/nvidia-smi",
    }
    links = [
        f"libcuda.so.580.1::{FOLDER}/libcuda.so.1",
        f"libcuda.so.1::{FOLDER}/libcuda.so",
    ]
    assert document["containerEdits"]["hooks"] == [
        {
            "hookName": "createContainer",
            "path": hook,
            "args": [*command, "create-symlinks", "--link", links[0], "--link", links[1]],
        },
        {
            "hookName": "createContainer",
            "path": hook,
            "args": [*command, "update-ldcache", "--folder", FOLDER],
        },
    ]


BROKEN = mig_device(0, 0, missing_device_nodes=("/dev/nvidia-caps/nvidia-cap63",))
CONFIG = mig_device(0, 0, device_nodes=("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap1"))
MONITOR = mig_device(0, 0, device_nodes=("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap2"))


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(BROKEN, id="a node is missing"),
        pytest.param(CONFIG, id="capability of the configuration"),
        pytest.param(MONITOR, id="capability of the monitor"),
        pytest.param(mig_device(0, 0, device_nodes=()), id="nodes unknown"),
        pytest.param(mig_device(0, 0, uuid="MIG-a,b"), id="no name of a device"),
        pytest.param(mig_device(0, 0, uuid="MIG-GPU-1/1/0"), id="a name of old drivers"),
    ],
)
def test_a_device_is_there_as_a_whole_or_not_at_all(device: Any) -> None:
    other = mig_device(0, 4)
    assert list(entries(node(gpu(0, device, other)), MIXED)) == [other.uuid]


def test_a_gpu_with_mig_mode_is_there_only_where_gpus_are_handed_out_whole() -> None:
    there, broken = mig_device(0, 2), BROKEN
    inventory = node(gpu(0, broken, there), gpu(1, mig=True))
    assert set(entries(inventory, MIXED)) == {there.uuid}
    whole = entries(inventory, NONE)
    assert set(whole) == {there.uuid, "GPU-0"}
    assert whole["GPU-0"] == Entry(
        GPU,
        ("GPU-0", "0"),
        tuple(
            dict.fromkeys(
                (
                    "/dev/nvidia0",
                    *broken.device_nodes[:1],
                    *broken.device_nodes[2:],
                    *there.device_nodes,
                )
            )
        ),
    )


def test_under_the_name_of_nvidias_plugin_there_is_one_kind() -> None:
    assert list(made(settings=AS_PLUGIN)) == ["k8s.device-plugin.nvidia.com/gpu"]


@pytest.mark.parametrize(
    ("control", "missing"),
    [
        (CONTROL, ()),
        (("/dev/nvidiactl",), ("/dev/nvidia-uvm",)),
        (("/dev/nvidia-uvm", "/dev/nvidia-modeset"), ("/dev/nvidiactl",)),
        ((), ("/dev/nvidiactl", "/dev/nvidia-uvm")),
    ],
)
def test_control_nodes_without_which_cuda_fails(
    control: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    assert missing_control_nodes(replace(NODE, control_nodes=control)) == missing


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({}, "0.3.0"),
        ({"containerEdits": {"mounts": [{"type": "bind"}]}}, "0.4.0"),
        ({"devices": [{"name": "0:1"}]}, "0.5.0"),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}}, "0.5.0"),
        ({"annotations": {}}, "0.6.0"),
        ({"devices": [{"name": "a", "annotations": {}}]}, "0.6.0"),
        ({"kind": "a.b/c.d"}, "0.6.0"),
        ({"containerEdits": {"additionalGids": [1]}}, "0.7.0"),
        ({"containerEdits": {"intelRdt": {"closID": "a"}}}, "0.7.0"),
        ({"containerEdits": {"intelRdt": {"enableMonitoring": True}}}, "1.1.0"),
        ({"devices": [{"name": "a", "containerEdits": {"netDevices": []}}]}, "1.1.0"),
    ],
)
def test_the_oldest_version_that_has_the_fields(changes: dict[str, Any], version: str) -> None:
    plain = {"kind": "a.b/c", "devices": [{"name": "a"}]}
    assert needed_version({**plain, **changes}) == version


@pytest.mark.parametrize("settings", [MIXED, AS_PLUGIN, NONE])
@pytest.mark.parametrize("dev_root", ["/", "/run/nvidia/driver"])
@pytest.mark.parametrize("hook", ["", "/usr/bin/nvidia-cdi-hook"])
def test_runtimes_since_containerd_1_7_can_read_what_is_made(
    settings: Settings, dev_root: str, hook: str
) -> None:
    for kind, document in made(NODE, settings, replace(FILES, hook=hook), dev_root).items():
        VALIDATOR.validate(document)
        assert document["cdiVersion"] == needed_version(document) == "0.5.0"
        assert document["kind"] == kind


_PROFILES = st.lists(st.sampled_from(["1g.5gb", "2g.10gb"]), max_size=4)


@given(st.lists(_PROFILES, min_size=1, max_size=4), st.sampled_from([MIXED, NONE, AS_PLUGIN]))
def test_every_device_is_found_by_each_of_its_names_and_has_no_node_of_another(
    profiles: list[list[str]], settings: Settings
) -> None:
    inventory = node(*(mig_gpu(n, *each) if each else gpu(n) for n, each in enumerate(profiles)))
    found = made(inventory, settings)
    for document in found.values():
        VALIDATOR.validate(document)
        names = [device["name"] for device in document["devices"]]
        assert len(names) == len(set(names))
    for device in inventory.devices():
        if device.uuid not in entries(inventory, settings):
            assert device.parts
            continue
        for strategy in DeviceIdStrategy:
            kind, _, name = qualified(
                device, dataclasses.replace(settings, device_id_strategy=strategy)
            ).partition("=")
            assert nodes(found[kind], name) == list(
                dict.fromkeys(
                    (*device.device_nodes, *(n for part in device.parts for n in part.device_nodes))
                )
            )


def test_names_of_files_are_our_own_and_begin_with_a_comment() -> None:
    assert file_name("nvidia.com/mig") == "mig-device-plugin-nvidia.com-mig.yaml"


@pytest.mark.parametrize(
    "uuid",
    [
        "MIG-9b50b69e-6661-5f7e-8b65-1941cf27eb89",
        "GPU-9b50b69e-6661-5f7e-8b65-1941cf27eb89",
        "MIG-GPU-9b50b69e-6661-5f7e-8b65-1941cf27eb89/11/0",
        "MIG-" + "-" * 90,
    ],
)
def test_an_annotation_has_a_key_that_kubernetes_accepts(uuid: str) -> None:
    device, other = mig_device(0, 0, uuid=uuid), mig_device(0, 2, index=1)
    key, value = annotation(
        [device, other], dataclasses.replace(MIXED, cdi_annotation_prefix="a.b/")
    )
    assert re.fullmatch(r"a\.b/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", key)
    assert value == f"nvidia.com/mig={uuid},nvidia.com/mig={other.uuid}"
    assert annotation([other], MIXED)[0] != annotation([device], MIXED)[0]


# ---- what remains of a document that cannot be written anew

_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
_SPOILED = st.builds(lambda value: {**made()[MIG], "devices": value}, _JSON)


@given(_JSON | _SPOILED | st.just(made()[MIG]), st.sets(st.sampled_from([0, 1, 2, 3])))
def test_nothing_remains_but_devices_that_are_as_they_were(document: Any, there: set[int]) -> None:
    named = devices(entries(NODE, MIXED).values(), "/")
    now = [device for number, device in enumerate(named) if number in there]
    left = remains(document, now)
    if document == made()[MIG] and there:
        assert left is not None
        assert left["devices"][:-1] == now
        assert left["containerEdits"] == document["containerEdits"]
        every = [node for each in now for node in each["containerEdits"]["deviceNodes"]]
        given_by_all = left["devices"][-1]["containerEdits"]["deviceNodes"]
        assert left["devices"][-1]["name"] == ALL
        assert given_by_all == [n for i, n in enumerate(every) if n not in every[:i]]
    else:
        assert left is None
