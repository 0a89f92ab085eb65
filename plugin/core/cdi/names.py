"""Names of devices in CDI specifications, and of the files that have them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plugin.core.inventory.model import Device, Gpu
from plugin.core.settings import CdiVendor, DeviceIdStrategy, Settings

#: Common to the vendors of all our kinds.
DOMAIN = CdiVendor.NVIDIA

#: The device that stands for all of its kind.
ALL = "all"

#: A device's name as the CDI specification allows it.
DEVICE_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?"
_DEVICE_NAME = re.compile(DEVICE_NAME, re.ASCII)
#: After the prefix, an annotation's key has at most 63 characters: these, and the device's UUID.
_ANNOTATION = "nvidia-device-plugin_"
_KEY_CHARACTERS = 63


def is_device_name(name: str) -> bool:
    return _DEVICE_NAME.fullmatch(name) is not None


def kinds(vendor: CdiVendor) -> tuple[str, str]:
    """The kinds, ``vendor/class``, of MIG devices and of GPUs."""
    return f"{vendor}/{'mig' if vendor is CdiVendor.NVIDIA else 'gpu'}", f"{vendor}/gpu"


#: Every kind that a specification of ours may have.
KINDS = tuple(dict.fromkeys(of for vendor in CdiVendor for of in kinds(vendor)))


def kind(device: Device, vendor: CdiVendor) -> str:
    of_mig, of_gpus = kinds(vendor)
    return of_gpus if isinstance(device, Gpu) else of_mig


def file_name(of_kind: str) -> str:
    """The file of a kind: no other program's has such a name. The ending lets it begin with a
    comment.
    """
    return f"mig-device-plugin-{of_kind.replace('/', '-')}.yaml"


def qualified(device: Device, settings: Settings) -> str:
    """The device's full name, by which the container runtime finds it: ``vendor/class=name``."""
    by_index = settings.device_id_strategy is DeviceIdStrategy.INDEX
    return f"{kind(device, settings.cdi_vendor)}={device.path if by_index else device.uuid}"


def annotation(devices: Sequence[Device], settings: Settings) -> tuple[str, str]:
    """Key and value of the annotation that names these devices.

    Kubelet merges the annotations of all resources of a container, so no two may have one key: no
    device is in two resources, so the first one's UUID tells them apart.
    """
    own = re.sub(r"[^A-Za-z0-9_.-]", "_", devices[0].uuid)
    name = (_ANNOTATION + own)[:_KEY_CHARACTERS].rstrip("_.-")
    value = ",".join(qualified(device, settings) for device in devices)
    return f"{settings.cdi_annotation_prefix}{name}", value
