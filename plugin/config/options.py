"""The table of options: field, names, help, and how each value is read.

Names and values are those of NVIDIA's device plugin wherever it has the option.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

from plugin.core.settings import (
    DeviceIdStrategy,
    DeviceListStrategy,
    HealthChecks,
    MigStrategy,
    Policy,
    SingleResource,
)

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
        chosen = tuple(
            dict.fromkeys(DeviceListStrategy(str(item).strip().lower()) for item in items)
        )
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


def listen_address(value: object) -> str:
    host, separator, port = str(value).rpartition(":")
    if value == "":
        return ""
    bracketed = host.startswith("[") == host.endswith("]") and (
        ":" not in host or host.startswith("[")
    )
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536 or not bracketed:  # noqa: PLR2004 — TCP's
        raise ValueError("HOST:PORT, :PORT, [IPV6]:PORT, or nothing")
    return str(value)


def _host_names(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    names = tuple(str(item).strip().lower() for item in items if str(item).strip())
    if not all(re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) for name in names):
        raise ValueError("host names or *.DOMAIN, separated by commas; * for all")
    return names


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")  # noqa: TRY004 — parsers speak by ValueError
    return value


def _seconds(least: float) -> Parse:
    def parse(value: object) -> float:
        try:
            number = float(str(value).strip().removesuffix("s"))
        except ValueError:
            number = -1
        if not least <= number <= 86_400:  # noqa: PLR2004 — a day
            raise ValueError(f"seconds from {least:g} to 86400")
        return number

    return parse


def _count(value: object) -> int:
    text = str(value).strip()
    if not text.isdecimal() or int(text) > 1000:  # noqa: PLR2004 — more would remember every fault of a month
        raise ValueError("a number from 0 to 1000")
    return int(text)


def _health_checks(value: object) -> HealthChecks:
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    words = {str(item).strip().lower() for item in items} - {""}
    numbers = words - {"all", "xids"}
    if not all(number.isdecimal() and len(number) < 6 for number in numbers):  # noqa: PLR2004 — no XID is that long
        raise ValueError("all, xids, or XIDs separated by commas")
    return HealthChecks(
        "all" in words, "xids" in words, frozenset(int(number) for number in numbers)
    )


#: Whose empty value means something: none of it.
EMPTY_MEANS_NONE = frozenset({socket_path, listen_address})


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its field in :class:`Settings`, its names, its words in ``--help`` and how it is
    read.
    """

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
_HEALTH = "what takes devices out of service, and what brings them back"
_SEEN = "what can be seen"
_DAEMON = "how the daemon runs"

OPTIONS: tuple[Option, ...] = (
    Option(
        "mig_strategy",
        _ADVERTISE,
        "none: whole GPUs as nvidia.com/gpu; mixed: each MIG device as nvidia.com/mig-<profile>; "
        "single: the same, "
        "where all MIG devices of the node must be of one profile",
        _choice(MigStrategy),
        ("--mig-strategy",),
        ("MIG_STRATEGY",),
        "migStrategy",
    ),
    Option(
        "single_resource",
        _ADVERTISE,
        "name of the resource under single: profile (nvidia.com/mig-<profile>) or gpu "
        "(nvidia.com/gpu)",
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
    Option(
        "proc_root",
        _DRIVER,
        "where procfs is mounted",
        absolute_path,
        ("--proc-root",),
        ("PROC_ROOT",),
    ),
    Option(
        "sys_root", _DRIVER, "where sysfs is mounted", absolute_path, ("--sys-root",), ("SYS_ROOT",)
    ),
    Option(
        "simulate",
        _DRIVER,
        "no GPU: simulate NODE[:GEOMETRY], such as p4d.24xlarge:all-1g.5gb or "
        "p5.48xlarge:all-balanced",
        _text,
        ("--simulate",),
        ("SIMULATE",),
    ),
    Option(
        "disable_healthchecks",
        _HEALTH,
        "all (watch nothing), xids, or XIDs by comma that never take a device out",
        _health_checks,
        ("--disable-healthchecks",),
        ("DP_DISABLE_HEALTHCHECKS",),
        "plugin.disableHealthChecks",
    ),
    Option(
        "enable_healthchecks",
        _HEALTH,
        "all, xids, or XIDs by comma that always take a device out; wins over what is disabled",
        _health_checks,
        ("--enable-healthchecks",),
        ("DP_ENABLE_HEALTHCHECKS",),
        "plugin.enableHealthChecks",
    ),
    Option(
        "quiet_seconds",
        _HEALTH,
        "seconds without trouble before a healed device is offered again; doubles when it flaps, "
        "up to an hour",
        _seconds(0.1),
        ("--quiet-period",),
        ("QUIET_PERIOD",),
        "plugin.quietPeriod",
    ),
    Option(
        "escalate_count",
        _HEALTH,
        "so many faults of applications on one device within the window take it out; 0: never",
        _count,
        ("--escalate-count",),
        ("ESCALATE_COUNT",),
        "plugin.escalateCount",
    ),
    Option(
        "escalate_seconds",
        _HEALTH,
        "the window in seconds",
        _seconds(1),
        ("--escalate-window",),
        ("ESCALATE_WINDOW",),
        "plugin.escalateWindow",
    ),
    Option(
        "probe_seconds",
        _HEALTH,
        "seconds between two probes for what has no event, such as a lost GPU",
        _seconds(0.1),
        ("--probe-interval",),
        ("PROBE_INTERVAL",),
        "plugin.probeInterval",
    ),
    Option(
        "ledger_file",
        _HEALTH,
        "where verdicts and cordons are kept over restarts (default: "
        "/var/lib/mig-device-plugin/ledger.json; a "
        "temporary file in a simulation)",
        absolute_path,
        ("--ledger-file",),
        ("LEDGER_FILE",),
        "plugin.ledgerFile",
    ),
    Option(
        "control_socket",
        _DAEMON,
        "socket on which cordon, drain and health clear reach the running daemon; empty: none",
        socket_path,
        ("--control-socket",),
        ("CONTROL_SOCKET",),
        "plugin.controlSocket",
    ),
    Option(
        "fail_on_init_error",
        _DAEMON,
        "exit when the driver cannot be initialised; false: stay up, advertise nothing, keep "
        "trying",
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
        _seconds(1),
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
        "config_file",
        _DAEMON,
        "YAML or JSON file with further settings",
        _text,
        ("--config-file",),
        ("CONFIG_FILE",),
    ),
    Option(
        "http_address",
        _SEEN,
        "HOST:PORT for metrics, probes and the status page; empty: none",
        listen_address,
        ("--http-address",),
        ("HTTP_ADDRESS",),
        "plugin.httpAddress",
    ),
    Option(
        "http_hosts",
        _SEEN,
        "host names by which clients may ask, beside IP addresses, localhost and the node's name",
        _host_names,
        ("--http-hosts",),
        ("HTTP_HOSTS",),
        "plugin.httpHosts",
    ),
    Option(
        "http_tls_cert",
        _SEEN,
        "certificate chain (PEM) for HTTPS; read again when it changes",
        absolute_path,
        ("--http-tls-cert",),
        ("HTTP_TLS_CERT",),
        "plugin.httpTLSCert",
    ),
    Option(
        "http_tls_key",
        _SEEN,
        "its private key (PEM)",
        absolute_path,
        ("--http-tls-key",),
        ("HTTP_TLS_KEY",),
        "plugin.httpTLSKey",
    ),
    Option(
        "dcgm_names",
        _SEEN,
        "expose dcgm-exporter's metric names as well",
        boolean,
        ("--dcgm-names",),
        ("DCGM_NAMES",),
        "plugin.dcgmNames",
        switch=True,
    ),
    Option(
        "sample_seconds",
        _SEEN,
        "seconds between two measurements of the devices' use",
        _seconds(1),
        ("--sample-interval",),
        ("SAMPLE_INTERVAL",),
        "plugin.sampleInterval",
    ),
    Option(
        "pod_resources_socket",
        _SEEN,
        "kubelet's pod resources socket, which tells who holds a device; empty: do not ask",
        socket_path,
        ("--pod-resources-socket",),
        ("POD_RESOURCES_SOCKET",),
        "plugin.podResourcesSocket",
    ),
)

#: NVIDIA's options that have no meaning here; they are accepted, with a warning, so that a file or
#: a manifest can be taken over as it is. Their environment variables are called as the flags:
#: MPS_ROOT for
#: --mps-root.
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
