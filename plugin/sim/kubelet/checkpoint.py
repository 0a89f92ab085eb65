"""Kubelet's checkpoint: the devices of each container and the plugin's responses, across
restarts.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

from plugin.api import deviceplugin_v1beta1_pb2 as pb
from plugin.errors import SimulationError
from plugin.sim.kubelet.pods import Assignment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "kubelet_internal_checkpoint"


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
        entries.append(
            {
                "PodUID": held.pod,
                "ContainerName": held.container,
                "ResourceName": held.resource,
                "DeviceIDs": by_numa,
                "AllocResp": base64.b64encode(response).decode(),
            }
        )
    data = {"PodDeviceEntries": entries, "RegisteredDevices": registered}
    draft = directory / f".{NAME}.new"
    draft.write_bytes(_encode({"Data": data, "Checksum": _checksum(data)}))
    draft.replace(directory / NAME)


def load(directory: Path) -> tuple[list[Assignment], list[str]]:
    """The saved assignments and resources; empty without a file. Refuses a damaged file."""
    path = directory / NAME
    try:
        file = json.loads(path.read_bytes())
        data, checksum = file["Data"], file["Checksum"]
        if checksum != _checksum(data):
            raise SimulationError(f"the checkpoint {path} does not match its checksum; delete it")
        assignments = [
            Assignment(
                entry["PodUID"],
                entry["ContainerName"],
                entry["ResourceName"],
                {device: int(numa) for numa, ids in entry["DeviceIDs"].items() for device in ids},
                pb.ContainerAllocateResponse.FromString(
                    base64.b64decode(entry["AllocResp"], validate=True)
                ),
            )
            for entry in data["PodDeviceEntries"]
        ]
        return assignments, list(data["RegisteredDevices"])
    except FileNotFoundError:
        return [], []
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SimulationError(
            f"the checkpoint {path} cannot be read: {error}; delete it"
        ) from error


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _checksum(data: dict[str, Any]) -> int:
    return zlib.crc32(_encode(data))
