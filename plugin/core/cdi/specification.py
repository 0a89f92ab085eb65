"""From devices and the driver's files to CDI documents.

Facts are those of the CDI specification 1.1.0 and of NVIDIA's generator. Unknown fields, and a
version lower than the fields need, make a runtime ignore the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from plugin.core.cdi.names import ALL, is_device_name, kind
from plugin.core.inventory.model import Device, Gpu, Inventory
from plugin.core.settings import CdiVendor, MigStrategy, Settings

#: Without these CUDA finds no device, or fails to initialise.
NEEDED_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
#: Capabilities that reach into the whole node, and are no container's, by their nodes.
FORBIDDEN_NODES: Mapping[str, str] = MappingProxyType(
    {"/dev/nvidia-caps/nvidia-cap1": "config", "/dev/nvidia-caps/nvidia-cap2": "monitor"}
)

#: Where the dynamic loaders of Debian's and of Red Hat's kin look without a cache and without
#: LD_LIBRARY_PATH, by the machine of an ELF file.
DEFAULT_FOLDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "x86_64": ("/usr/lib/x86_64-linux-gnu", "/usr/lib64"),
        "aarch64": ("/usr/lib/aarch64-linux-gnu", "/usr/lib64"),
    }
)
#: Loaded by name without a version, too.
_UNVERSIONED = {"libcuda.so.1": "libcuda.so", "libnvidia-ml.so.1": "libnvidia-ml.so"}
_PROGRAMS_FOLDER = "/usr/bin"
_MOUNT_OPTIONS = ("ro", "nosuid", "nodev", "rbind", "rprivate")

Document = dict[str, Any]


class Library(Struct, frozen=True):
    """A shared library of the driver: its real file below the driver root, and its SONAME."""

    path: str
    soname: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class Program(Struct, frozen=True):
    """A program of the driver: its real file below the driver root."""

    name: str
    path: str


class DriverFiles(Struct, frozen=True):
    """What was found of a driver. ``root`` is the driver root as the host sees it, ``hook`` the
    host's path of ``nvidia-cdi-hook`` or ``nvidia-ctk``, empty for none.
    """

    root: str
    version: str
    machine: str
    libraries: tuple[Library, ...]
    programs: tuple[Program, ...] = ()
    hook: str = ""


class Entry(Struct, frozen=True):
    """A device in a specification: its kind, its names, and its device nodes below the device
    root.
    """

    kind: str
    names: tuple[str, ...]
    nodes: tuple[str, ...]


def entries(inventory: Inventory, settings: Settings) -> Mapping[str, Entry]:
    """By UUID, every device that a container can use.

    A device with a missing or forbidden node is left out as a whole: with a part of its nodes, a
    container would start and find nothing.
    """
    found: dict[str, Entry] = {}
    # Otherwise a GPU with MIG mode on is there as its MIG devices only.
    whole = settings.mig_strategy is MigStrategy.NONE
    for device in inventory.devices():
        if isinstance(device, Gpu) and device.mig_enabled and not (whole and device.parts):
            continue
        nodes = tuple(_nodes(device))
        names = tuple(dict.fromkeys((device.uuid, device.path)))
        usable = bool(nodes) and not device.missing_device_nodes
        if usable and FORBIDDEN_NODES.keys().isdisjoint(nodes) and all(map(is_device_name, names)):
            found[device.uuid] = Entry(kind(device, settings.cdi_vendor), names, nodes)
    return found


def entries_by_kind(inventory: Inventory, settings: Settings) -> Mapping[str, list[Entry]]:
    """Under the names of every vendor: another one's may be on disk from earlier settings."""
    found: dict[str, list[Entry]] = {}
    for vendor in CdiVendor:
        for entry in entries(inventory, replace(settings, cdi_vendor=vendor)).values():
            found.setdefault(entry.kind, []).append(entry)
    return found


def _nodes(device: Device) -> Iterable[str]:
    """A GPU that is handed out whole brings what there is of its MIG devices."""
    parts = (
        node
        for part in device.parts
        for node in part.device_nodes
        if node not in part.missing_device_nodes
    )
    return dict.fromkeys((*device.device_nodes, *parts))


def missing_control_nodes(inventory: Inventory) -> tuple[str, ...]:
    """Nodes without which no device of the node works in a container."""
    return tuple(node for node in NEEDED_NODES if node not in inventory.control_nodes)


def documents(
    found: Iterable[Entry], control_nodes: Iterable[str], files: DriverFiles, dev_root: str
) -> Mapping[str, Document]:
    """By kind, a document with all its devices."""
    by_kind: dict[str, list[Entry]] = {}
    for entry in found:
        by_kind.setdefault(entry.kind, []).append(entry)
    common = _common(control_nodes, files, dev_root)
    return {of: _document(of, listed, common, dev_root) for of, listed in by_kind.items()}


def _document(of: str, listed: list[Entry], common: Document, dev_root: str) -> Document:
    document = {
        "cdiVersion": "",
        "kind": of,
        "devices": with_all(devices(listed, dev_root)),
        "containerEdits": common,
    }
    document["cdiVersion"] = needed_version(document)
    return document


def devices(listed: Iterable[Entry], dev_root: str) -> list[Document]:
    """One for each name."""
    return [
        _device(name, _device_nodes(entry.nodes, dev_root))
        for entry in listed
        for name in entry.names
    ]


def with_all(named: list[Document]) -> list[Document]:
    """The devices, and the one that stands for all of them."""
    every: list[Document] = []
    for device in named:
        every += [n for n in device["containerEdits"]["deviceNodes"] if n not in every]
    return [*named, _device(ALL, every)]


def _device(name: str, nodes: list[Document]) -> Document:
    return {"name": name, "containerEdits": {"deviceNodes": nodes}}


def _device_nodes(nodes: Iterable[str], dev_root: str) -> list[Document]:
    """Without numbers: the runtime reads them when the container starts, so they are right after
    a driver was loaded anew, and a node that is gone is an error.
    """
    root = dev_root.rstrip("/")
    return [
        {"path": node, **({"hostPath": root + node} if root else {}), "permissions": "rw"}
        for node in nodes
    ]


def _common(control_nodes: Iterable[str], files: DriverFiles, dev_root: str) -> Document:
    common: Document = {
        # Keeps the hook of NVIDIA's runtime from adding devices of its own choice.
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": _device_nodes(control_nodes, dev_root),
        "mounts": [_mount(files, *mount) for mount in _mounts(files)],
    }
    if files.hook:
        common["hooks"] = list(_hooks(files))
    return common


def _mount(files: DriverFiles, path: str, container_path: str) -> Document:
    return {
        "hostPath": files.root.rstrip("/") + path,
        "containerPath": container_path,
        "options": list(_MOUNT_OPTIONS),
    }


def _mounts(files: DriverFiles) -> Iterator[tuple[str, str]]:
    """Paths below the driver root, and in the container."""
    for library in files.libraries:
        if files.hook:  # which makes the links and the loader's cache
            yield library.path, library.path
            continue
        # Nothing runs in the container, so each file stands where the loader looks by itself, under
        # the name by which it is looked up.
        for folder in DEFAULT_FOLDERS[files.machine]:
            yield library.path, f"{folder}/{library.soname}"
            if library.soname in _UNVERSIONED:
                yield library.path, f"{folder}/{_UNVERSIONED[library.soname]}"
    for program in files.programs:
        yield program.path, f"{_PROGRAMS_FOLDER}/{program.name}"


def _hooks(files: DriverFiles) -> Iterator[Document]:
    """Those that every release of NVIDIA's toolkit with CDI has."""
    name = files.hook.rpartition("/")[2]
    command = [name, "hook"] if name == "nvidia-ctk" else [name]
    links = [
        f"{target}::{library.folder}/{link}"
        for library in files.libraries
        for target, link in (
            (library.name, library.soname),
            (library.soname, _UNVERSIONED.get(library.soname, library.soname)),
        )
        if target != link
    ]
    folders = dict.fromkeys(library.folder for library in files.libraries)
    for hook, flag, values in (
        ("create-symlinks", "--link", links),
        ("update-ldcache", "--folder", folders),
    ):
        yield {
            "hookName": "createContainer",
            "path": files.hook,
            "args": [*command, hook, *(word for value in values for word in (flag, value))],
        }


_OLDEST = (0, 3, 0)


def needed_version(document: Mapping[str, Any]) -> str:
    """The oldest version of the specification that has everything in this document.

    Runtimes refuse a higher one than they know, and a lower one than the fields need.
    """
    return ".".join(map(str, max((_OLDEST, *_needs(document)))))


def _needs(document: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    _, _, of_class = document["kind"].partition("/")
    devices = document["devices"]
    if "." in of_class or any("annotations" in part for part in (document, *devices)):
        yield 0, 6, 0
    if any(re.match("[0-9]", device["name"]) for device in devices):
        yield 0, 5, 0
    for part in (document, *devices):
        edits = part.get("containerEdits") or {}
        rdt = edits.get("intelRdt") or {}
        if "netDevices" in edits or not {"enableMonitoring", "schemata"}.isdisjoint(rdt):
            yield 1, 1, 0
        if any(key in edits for key in ("intelRdt", "additionalGids")):
            yield 0, 7, 0
        if any("hostPath" in node for node in edits.get("deviceNodes", ())):
            yield 0, 5, 0
        if any("type" in mount for mount in edits.get("mounts", ())):
            yield 0, 4, 0
