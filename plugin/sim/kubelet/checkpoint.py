"""The file in which kubelet keeps, over restarts, which container holds which device and what the
plugin answered.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.errors import SimulationError
from plugin.sim.kubelet.pods import Assignment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "kubelet_internal_checkpoint"


class _Entry(msgspec.Struct, frozen=True, rename="pascal"):
    pod_uid: str = msgspec.field(name="PodUID")
    container_name: str
    resource_name: str
    device_ids: dict[str, list[str]] = msgspec.field(name="DeviceIDs")
    alloc_resp: bytes


class _Data(msgspec.Struct, frozen=True, rename="pascal"):
    pod_device_entries: list[_Entry]
    registered_devices: dict[str, list[str]]


class _File(msgspec.Struct, frozen=True, rename="pascal"):
    data: _Data
    checksum: int


def save(
    directory: Path, assignments: Iterable[Assignment], registered: dict[str, list[str]]
) -> None:
    """Replace the file. ``registered`` is resource → healthy ids."""
    entries = []
    for held in assignments:
        by_numa: dict[str, list[str]] = {}
        for device, numa in held.ids.items():
            by_numa.setdefault(str(numa), []).append(device)
        response = held.response.SerializeToString(deterministic=True)
        entries.append(_Entry(held.pod, held.container, held.resource, by_numa, response))
    data = _Data(entries, registered)
    draft = directory / f".{NAME}.new"
    draft.write_bytes(msgspec.json.encode(_File(data, _checksum(data))))
    draft.replace(directory / NAME)


def load(directory: Path) -> tuple[list[Assignment], list[str]]:
    """Return what was saved, resources by name; nothing when there is no file. A damaged file is
    refused.
    """
    path = directory / NAME
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return [], []
    except msgspec.MsgspecError as error:
        raise SimulationError(
            f"the checkpoint {path} cannot be read: {error}; delete it"
        ) from error
    if file.checksum != _checksum(file.data):
        raise SimulationError(f"the checkpoint {path} does not match its checksum; delete it")
    assignments = [
        Assignment(
            entry.pod_uid,
            entry.container_name,
            entry.resource_name,
            {device: int(numa) for numa, ids in entry.device_ids.items() for device in ids},
            pb.ContainerAllocateResponse.FromString(entry.alloc_resp),
        )
        for entry in file.data.pod_device_entries
    ]
    return assignments, list(file.data.registered_devices)


def _checksum(data: _Data) -> int:
    return zlib.crc32(msgspec.json.encode(data))
