"""Everything that can be configured; ``plugin.config`` fills it from flags, environment and file.

Names and values are those of NVIDIA's device plugin wherever it has the option.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple

from plugin.core.option import (
    BOOLEAN,
    PATH,
    TEXT,
    Change,
    Grammar,
    choice,
    count,
    items,
    option,
    seconds,
    several,
)


class MigStrategy(enum.StrEnum):
    """How MIG devices become resources."""

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


class SingleResource(enum.StrEnum):
    """What the devices of a ``single`` node are called: by their profile, or ``nvidia.com/gpu`` as
    NVIDIA does.
    """

    PROFILE = "profile"
    GPU = "gpu"


class DeviceListStrategy(enum.StrEnum):
    """How the container runtime learns which devices to inject."""

    ENVVAR = "envvar"
    VOLUME_MOUNTS = "volume-mounts"


class DeviceIdStrategy(enum.StrEnum):
    """What stands in that list."""

    UUID = "uuid"
    INDEX = "index"


class Policy(enum.StrEnum):
    """Which devices to prefer: those that fill GPUs, or those that spread over them."""

    PACKED = "packed"
    DISTRIBUTED = "distributed"


@dataclass(frozen=True, slots=True)
class SharedResource:
    """One entry of ``sharing.timeSlicing.resources``.

    ``devices`` selects what is shared: ``None`` for all, a number for that many, else indices and
    UUIDs.
    """

    name: str
    replicas: int
    rename: str | None = None
    devices: int | tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sharing:
    """Time slicing: one device listed several times."""

    resources: tuple[SharedResource, ...] = ()
    rename_by_default: bool = False
    fail_requests_greater_than_one: bool = False


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """A set of health checks: ``all`` of them, all ``xids``, or the XIDs in ``numbers``."""

    all: bool = False
    xids: bool = False
    numbers: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return self.all or self.xids or bool(self.numbers)

    def __str__(self) -> str:
        words = ["all"] * self.all + ["xids"] * self.xids
        return ",".join([*words, *map(str, sorted(self.numbers))])

    def covers(self, xid: int) -> bool:
        return self.all or self.xids or xid in self.numbers


class Address(NamedTuple):
    """Where to listen; an empty host is every address of the machine, port 0 any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


#: A name or IPv4 address, or an IPv6 address in brackets.
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([\w.-]*)):([0-9]{1,5})", re.ASCII)


def _address(value: object) -> Address:
    match = _ADDRESS.fullmatch(str(value))
    if match is None or int(match[3]) > 65535:  # noqa: PLR2004 — the highest port of TCP
        raise ValueError(value)
    if match[1] is not None:
        from ipaddress import IPv6Address  # noqa: PLC0415 — 5 ms that few addresses need

        IPv6Address(match[1])
    return Address(match[1] or match[2], int(match[3]))


def _health_checks(value: object) -> HealthChecks:
    words = set(items(value)) - {""}
    numbers = words - {"all", "xids"}
    if not all(_XID.fullmatch(number) for number in numbers):
        raise ValueError(value)
    return HealthChecks("all" in words, "xids" in words, frozenset(map(int, numbers)))


_XID = re.compile(r"[0-9]{1,5}")
_CHECKS = Grammar(_health_checks, "all, xids, or XIDs separated by commas")

_ADVERTISE = "what is advertised"
_ALLOCATE = "what a container is given"
_DRIVER = "where the driver is"
_HEALTH = "what takes devices out of service, and what brings them back"
_DAEMON = "how the daemon runs"
_SEEN = "what can be seen"

_RESTART = Change.RESTART


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per option, with all there is to say about it. Unless it is said, the flag follows
    from the field's name, and the variable and the key of the file (below ``flags.plugin``) from
    the flag.
    """

    sharing: Sharing = Sharing()

    mig_strategy: MigStrategy = option(
        MigStrategy.NONE,
        choice(MigStrategy),
        _ADVERTISE,
        "none: whole GPUs as nvidia.com/gpu; mixed: each MIG device as nvidia.com/mig-<profile>; "
        "single: the same, where all MIG devices of the node must be of one profile",
        key="migStrategy",
    )
    single_resource: SingleResource = option(
        SingleResource.PROFILE,
        choice(SingleResource),
        _ADVERTISE,
        "name of the resource under single: profile (nvidia.com/mig-<profile>) or gpu "
        "(nvidia.com/gpu)",
    )

    pass_device_specs: bool = option(
        True, BOOLEAN, _ALLOCATE, "name the device nodes in the answer to kubelet"
    )
    device_list_strategy: tuple[DeviceListStrategy, ...] = option(
        (DeviceListStrategy.ENVVAR,),
        several(DeviceListStrategy),
        _ALLOCATE,
        "how the container runtime learns its devices: envvar, volume-mounts, or both by comma",
    )
    device_id_strategy: DeviceIdStrategy = option(
        DeviceIdStrategy.UUID,
        choice(DeviceIdStrategy),
        _ALLOCATE,
        "what stands in that list: uuid, or index (0:3 is MIG device 3 of GPU 0)",
        key="plugin.deviceIDStrategy",
    )
    cuda_visible_devices: bool = option(
        True,
        BOOLEAN,
        _ALLOCATE,
        "set CUDA_VISIBLE_DEVICES as well as NVIDIA_VISIBLE_DEVICES",
        envs=("SET_CUDA_VISIBLE_DEVICES",),
    )
    allocation_policy: Policy = option(
        Policy.PACKED,
        choice(Policy),
        _ALLOCATE,
        "which devices to prefer: packed (fewest GPUs) or distributed (least loaded GPU first)",
    )
    shared_devices_allocation_policy: Policy = option(
        Policy.DISTRIBUTED,
        choice(Policy),
        _ALLOCATE,
        "the same among the replicas of shared devices",
    )
    gdrcopy_enabled: bool = option(
        False,
        BOOLEAN,
        _ALLOCATE,
        "set NVIDIA_GDRCOPY=enabled in containers",
        key="gdrcopyEnabled",
    )
    gds_enabled: bool = option(
        False, BOOLEAN, _ALLOCATE, "set NVIDIA_GDS=enabled in containers", key="gdsEnabled"
    )
    mofed_enabled: bool = option(
        False, BOOLEAN, _ALLOCATE, "set NVIDIA_MOFED=enabled in containers", key="mofedEnabled"
    )

    driver_root: str = option(
        "/",
        PATH,
        _DRIVER,
        "root of the driver installation on the host, such as /run/nvidia/driver",
        flags=("--driver-root", "--nvidia-driver-root"),
        envs=("NVIDIA_DRIVER_ROOT",),
        key="nvidiaDriverRoot",
        change=_RESTART,
    )
    dev_root: str = option(
        "",
        PATH,
        _DRIVER,
        "root of the device nodes on the host",
        flags=("--dev-root", "--nvidia-dev-root"),
        envs=("NVIDIA_DEV_ROOT",),
        key="nvidiaDevRoot",
        change=_RESTART,
        default_meaning="the driver root",
    )
    container_driver_root: str = option(
        "/driver-root",
        PATH,
        _DRIVER,
        "where the driver root is mounted in our own container",
        flags=("--driver-root-ctr-path", "--container-driver-root"),
        envs=("DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"),
        key="plugin.containerDriverRoot",
        change=_RESTART,
    )
    proc_root: str = option(
        "/proc", PATH, _DRIVER, "where procfs is mounted", in_file=False, change=_RESTART
    )
    sys_root: str = option(
        "/sys", PATH, _DRIVER, "where sysfs is mounted", in_file=False, change=_RESTART
    )
    simulate: str = option(
        "",
        TEXT._replace(metavar="NODE[:GEOMETRY]"),
        _DRIVER,
        "no GPU: simulate NODE[:GEOMETRY], such as p4d.24xlarge:all-1g.5gb or "
        "p5.48xlarge:all-balanced",
        in_file=False,
        change=_RESTART,
    )

    disable_healthchecks: HealthChecks = option(
        HealthChecks(),
        _CHECKS,
        _HEALTH,
        "all (watch nothing), xids, or XIDs by comma that never take a device out",
        envs=("DP_DISABLE_HEALTHCHECKS",),
        key="plugin.disableHealthChecks",
    )
    enable_healthchecks: HealthChecks = option(
        HealthChecks(),
        _CHECKS,
        _HEALTH,
        "all, xids, or XIDs by comma that always take a device out; wins over what is disabled",
        envs=("DP_ENABLE_HEALTHCHECKS",),
        key="plugin.enableHealthChecks",
    )
    quiet_seconds: float = option(
        60.0,
        seconds(0.1),
        _HEALTH,
        "seconds without trouble before a healed device is offered again; doubles when it flaps, "
        "up to an hour",
        flags=("--quiet-period",),
    )
    escalate_count: int = option(
        10,
        count(0, 1000),  # more would remember every fault of a month
        _HEALTH,
        "so many faults of applications on one device within the window take it out; 0: never",
    )
    escalate_seconds: float = option(
        600.0, seconds(1), _HEALTH, "the window in seconds", flags=("--escalate-window",)
    )
    probe_seconds: float = option(
        4.0,
        seconds(0.1),
        _HEALTH,
        "seconds between two probes for what has no event, such as a lost GPU",
        flags=("--probe-interval",),
    )
    ledger_file: str = option(
        "",
        PATH,
        _HEALTH,
        "where verdicts and cordons are kept over restarts",
        change=_RESTART,
        default_meaning="/var/lib/mig-device-plugin/ledger.json; a temporary file in a simulation",
    )

    control_socket: str = option(
        "/run/mig-device-plugin/control.sock",
        PATH,
        _DAEMON,
        "socket on which cordon, drain and health clear reach the running daemon; empty: none",
        change=_RESTART,
        empty=("",),
    )
    fail_on_init_error: bool = option(
        True,
        BOOLEAN,
        _DAEMON,
        "exit when the driver cannot be initialised; false: stay up, advertise nothing, keep "
        "trying",
        key="failOnInitError",
        change=_RESTART,  # only the start looks at it
    )
    kubelet_socket: str = option(
        "/var/lib/kubelet/device-plugins/kubelet.sock",
        PATH,
        _DAEMON,
        "kubelet's registration socket; empty: serve without registering",
        in_file=False,
        change=_RESTART,
        empty=("",),
    )
    rescan_seconds: float = option(
        30.0,
        seconds(1),
        _DAEMON,
        "seconds between two looks at the node's devices",
        flags=("--rescan-interval",),
    )
    log_level: str = option(
        "info",
        choice(("debug", "info", "warning", "error")),
        _DAEMON,
        "debug, info, warning or error",
        in_file=False,
        change=_RESTART,
    )
    log_format: str = option(
        "json",
        choice(("json", "console")),
        _DAEMON,
        "json, or console for people",
        in_file=False,
        change=_RESTART,
    )
    config_file: str = option(
        "",
        TEXT._replace(metavar="FILE"),
        _DAEMON,
        "YAML or JSON file with further settings",
        in_file=False,
        change=_RESTART,
    )

    http_address: Address | None = option(
        Address("", 9400),
        Grammar[Address | None](_address, "HOST:PORT, :PORT, [IPV6]:PORT", "HOST:PORT"),
        _SEEN,
        "HOST:PORT for metrics, probes and the status page; empty: none",
        change=_RESTART,
        empty=(None,),
    )
    http_tls_cert: str = option(
        "",
        PATH,
        _SEEN,
        "certificate chain (PEM) for HTTPS; read again when it changes",
        key="plugin.httpTLSCert",
        change=_RESTART,
    )
    http_tls_key: str = option(
        "", PATH, _SEEN, "its private key (PEM)", key="plugin.httpTLSKey", change=_RESTART
    )
    dcgm_names: bool = option(
        False,
        BOOLEAN,
        _SEEN,
        "expose dcgm-exporter's metric names as well",
        change=_RESTART,
    )
    sample_seconds: float = option(
        15.0,
        seconds(1),
        _SEEN,
        "seconds between two measurements of the devices' use",
        flags=("--sample-interval",),
        change=Change.NEXT_INTERVAL,
    )
    pod_resources_socket: str = option(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        PATH,
        _SEEN,
        "kubelet's pod resources socket, which tells who holds a device; empty: do not ask",
        change=_RESTART,
        empty=("",),
    )

    @property
    def host_dev_root(self) -> str:
        """Root of the device nodes as the host (and so the container runtime) sees them."""
        return self.dev_root or self.driver_root
