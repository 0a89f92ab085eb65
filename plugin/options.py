"""The table of options: field, names, help, and how each value is read.

Names and values are those of NVIDIA's device plugin wherever it has the option.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from plugin.core.settings import DeviceIdStrategy, DeviceListStrategy, MigStrategy, Policy, SingleResource

Parse = Callable[[object], object]

_TRUE = frozenset({"true", "1", "yes", "on", "t"})
_FALSE = frozenset({"false", "0", "no", "off", "f"})


def boolean(value: object) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def _choice(kind: type[enum.StrEnum]) -> Parse:
    def parse(value: object) -> enum.StrEnum:
        try:
            return kind(str(value).strip().lower())
        except ValueError:
            raise ValueError(", ".join(kind)) from None

    return parse


def _one_of(*choices: str) -> Parse:
    def parse(value: object) -> str:
        text = str(value).strip().lower()
        if text not in choices:
            raise ValueError(", ".join(choices))
        return text

    return parse


def _list_strategies(value: object) -> tuple[DeviceListStrategy, ...]:
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        chosen = tuple(dict.fromkeys(DeviceListStrategy(str(item).strip().lower()) for item in items))
    except ValueError:
        chosen = ()
    if not chosen:
        raise ValueError(f"one or more of {', '.join(DeviceListStrategy)}, separated by commas")
    return chosen


def absolute_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("an absolute path")
    return value


def socket_path(value: object) -> str:
    return "" if value == "" else absolute_path(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")  # noqa: TRY004 — parsers speak by ValueError
    return value


def _seconds(value: object) -> float:
    try:
        number = float(str(value).strip().removesuffix("s"))
    except ValueError:
        number = -1
    if not 1 <= number <= 86_400:  # noqa: PLR2004 — a day
        raise ValueError("seconds from 1 to 86400")
    return number


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its field in :class:`Settings`, its names, its words in ``--help`` and how it is read."""

    field: str
    group: str
    help: str
    parse: Parse
    flags: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    key: str = ""
    switch: bool = False


_ADVERTISE = "what is advertised"
_ALLOCATE = "what a container is given"
_DRIVER = "where the driver is"
_DAEMON = "how the daemon runs"

OPTIONS: tuple[Option, ...] = (
    Option(
        "mig_strategy",
        _ADVERTISE,
        "none: whole GPUs as nvidia.com/gpu; mixed: each MIG device as nvidia.com/mig-<profile>; single: the same, "
        "where all MIG devices of the node must be of one profile",
        _choice(MigStrategy),
        ("--mig-strategy",),
        ("MIG_STRATEGY",),
        "migStrategy",
    ),
    Option(
        "single_resource",
        _ADVERTISE,
        "name of the resource under single: profile (nvidia.com/mig-<profile>) or gpu (nvidia.com/gpu)",
        _choice(SingleResource),
        ("--single-resource",),
        ("SINGLE_RESOURCE",),
        "plugin.singleResource",
    ),
    Option(
        "pass_device_specs",
        _ALLOCATE,
        "name the device nodes in the answer to kubelet",
        boolean,
        ("--pass-device-specs",),
        ("PASS_DEVICE_SPECS",),
        "plugin.passDeviceSpecs",
        switch=True,
    ),
    Option(
        "device_list_strategy",
        _ALLOCATE,
        "how the container runtime learns its devices: envvar, volume-mounts, or both by comma",
        _list_strategies,
        ("--device-list-strategy",),
        ("DEVICE_LIST_STRATEGY",),
        "plugin.deviceListStrategy",
    ),
    Option(
        "device_id_strategy",
        _ALLOCATE,
        "what stands in that list: uuid, or index (0:3 is MIG device 3 of GPU 0)",
        _choice(DeviceIdStrategy),
        ("--device-id-strategy",),
        ("DEVICE_ID_STRATEGY",),
        "plugin.deviceIDStrategy",
    ),
    Option(
        "cuda_visible_devices",
        _ALLOCATE,
        "set CUDA_VISIBLE_DEVICES as well as NVIDIA_VISIBLE_DEVICES",
        boolean,
        ("--cuda-visible-devices",),
        ("SET_CUDA_VISIBLE_DEVICES",),
        "plugin.cudaVisibleDevices",
        switch=True,
    ),
    Option(
        "allocation_policy",
        _ALLOCATE,
        "which devices to prefer: packed (fewest GPUs) or distributed (least loaded GPU first)",
        _choice(Policy),
        ("--allocation-policy",),
        ("ALLOCATION_POLICY",),
        "plugin.allocationPolicy",
    ),
    Option(
        "shared_devices_allocation_policy",
        _ALLOCATE,
        "the same among the replicas of shared devices",
        _choice(Policy),
        ("--shared-devices-allocation-policy",),
        ("SHARED_DEVICES_ALLOCATION_POLICY",),
        "plugin.sharedDevicesAllocationPolicy",
    ),
    *(
        Option(
            f"{name}_enabled",
            _ALLOCATE,
            f"set NVIDIA_{name.upper()}=enabled in containers",
            boolean,
            (f"--{name}-enabled",),
            (f"{name.upper()}_ENABLED",),
            f"{name}Enabled",
            switch=True,
        )
        for name in ("gdrcopy", "gds", "mofed")
    ),
    Option(
        "driver_root",
        _DRIVER,
        "root of the driver installation on the host, such as /run/nvidia/driver",
        absolute_path,
        ("--driver-root", "--nvidia-driver-root"),
        ("NVIDIA_DRIVER_ROOT",),
        "nvidiaDriverRoot",
    ),
    Option(
        "dev_root",
        _DRIVER,
        "root of the device nodes on the host (default: the driver root)",
        absolute_path,
        ("--dev-root", "--nvidia-dev-root"),
        ("NVIDIA_DEV_ROOT",),
        "nvidiaDevRoot",
    ),
    Option(
        "container_driver_root",
        _DRIVER,
        "where the driver root is mounted in our own container",
        absolute_path,
        ("--driver-root-ctr-path", "--container-driver-root"),
        ("DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"),
        "plugin.containerDriverRoot",
    ),
    Option("proc_root", _DRIVER, "where procfs is mounted", absolute_path, ("--proc-root",), ("PROC_ROOT",)),
    Option("sys_root", _DRIVER, "where sysfs is mounted", absolute_path, ("--sys-root",), ("SYS_ROOT",)),
    Option(
        "simulate",
        _DRIVER,
        "no GPU: simulate NODE[:GEOMETRY], such as p4d.24xlarge:all-1g.5gb or p5.48xlarge:all-balanced",
        _text,
        ("--simulate",),
        ("SIMULATE",),
    ),
    Option(
        "fail_on_init_error",
        _DAEMON,
        "exit when the driver cannot be initialised; false: stay up, advertise nothing, keep trying",
        boolean,
        ("--fail-on-init-error",),
        ("FAIL_ON_INIT_ERROR",),
        "failOnInitError",
        switch=True,
    ),
    Option(
        "kubelet_socket",
        _DAEMON,
        "kubelet's registration socket; empty: serve without registering",
        socket_path,
        ("--kubelet-socket",),
        ("KUBELET_SOCKET",),
    ),
    Option(
        "rescan_seconds",
        _DAEMON,
        "seconds between two looks at the node's devices",
        _seconds,
        ("--rescan-interval",),
        ("RESCAN_INTERVAL",),
        "plugin.rescanInterval",
    ),
    Option(
        "log_level",
        _DAEMON,
        "debug, info, warning or error",
        _one_of("debug", "info", "warning", "error"),
        ("--log-level",),
        ("LOG_LEVEL",),
    ),
    Option(
        "log_format",
        _DAEMON,
        "json, or console for people",
        _one_of("json", "console"),
        ("--log-format",),
        ("LOG_FORMAT",),
    ),
    Option(
        "config_file", _DAEMON, "YAML or JSON file with further settings", _text, ("--config-file",), ("CONFIG_FILE",)
    ),
)

#: NVIDIA's options that have no meaning here; they are accepted, with a warning, so that a file or a manifest can
#: be taken over as it is.
IGNORED_FLAGS = {
    "--mps-root": "MPS is not supported",
    "--device-discovery-strategy": "devices are always discovered through NVML",
    "--imex-channel-ids": "IMEX channels are not supported",
    "--imex-required": "IMEX channels are not supported",
    "--cdi-annotation-prefix": "CDI is not supported yet",
    "--nvidia-cdi-hook-path": "CDI is not supported yet",
    "--nvidia-ctk-path": "CDI is not supported yet",
    "--cdi-feature-flags": "CDI is not supported yet",
}
IGNORED_KEYS = {
    "mpsRoot": "MPS is not supported",
    "deviceDiscoveryStrategy": "devices are always discovered through NVML",
    "useNodeFeatureAPI": "labels are not written by this command",
    "gfd": "labels are not written by this command",
    "plugin.cdiAnnotationPrefix": "CDI is not supported yet",
    "plugin.nvidiaCTKPath": "CDI is not supported yet",
    "plugin.nvidiaCDIHookPath": "CDI is not supported yet",
    "plugin.mps": "MPS is not supported",
}
