"""Everything that can be configured; ``plugin.config`` fills it from flags, environment and file.

Names and values are those of NVIDIA's device plugin wherever it has the option.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from plugin.core.grammars import (
    ADDRESS,
    HOST_NAMES,
    PATH,
    TEXT,
    Address,
    Grammar,
    choice,
    count,
    items,
    seconds,
    several,
)
from plugin.core.option import Change, Group


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


def _health_checks(value: object) -> HealthChecks:
    words = set(items(value)) - {""}
    numbers = words - {"all", "xids"}
    if not all(_XID.fullmatch(number) for number in numbers):
        raise ValueError(value)
    return HealthChecks("all" in words, "xids" in words, frozenset(map(int, numbers)))


_XID = re.compile(r"[0-9]{1,5}")
_CHECKS = Grammar(_health_checks, "all, xids, or XIDs separated by commas")

_advertise = Group("what is advertised").option
_allocate = Group("what a container is given").option
_driver = Group("where the driver is").option
_health = Group("what takes devices out of service, and what brings them back").option
_daemon = Group("how the daemon runs").option
_seen = Group("what can be seen").option

_RESTART = Change.RESTART


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per option, with all there is to say about it. By default the flag follows from
    the field's name, the variable and the key of the file (below ``flags.plugin``) from the flag,
    and a change takes effect at once.
    """

    sharing: Sharing = Sharing()

    mig_strategy: MigStrategy = _advertise(
        MigStrategy.NONE,
        "none: whole GPUs as nvidia.com/gpu; mixed: each MIG device as nvidia.com/mig-<profile>; "
        "single: the same, where all MIG devices of the node must be of one profile",
        key="migStrategy",
    )
    single_resource: SingleResource = _advertise(
        SingleResource.PROFILE,
        "name of the resource under single: profile (nvidia.com/mig-<profile>) or gpu "
        "(nvidia.com/gpu)",
    )

    pass_device_specs: bool = _allocate(True, "name the device nodes in the answer to kubelet")
    device_list_strategy: tuple[DeviceListStrategy, ...] = _allocate(
        (DeviceListStrategy.ENVVAR,),
        "how the container runtime learns its devices: envvar, volume-mounts, or both by comma",
        several(DeviceListStrategy),
    )
    device_id_strategy: DeviceIdStrategy = _allocate(
        DeviceIdStrategy.UUID,
        "what stands in that list: uuid, or index (0:3 is MIG device 3 of GPU 0)",
        key="plugin.deviceIDStrategy",
    )
    cuda_visible_devices: bool = _allocate(
        True,
        "set CUDA_VISIBLE_DEVICES as well as NVIDIA_VISIBLE_DEVICES",
        envs=("SET_CUDA_VISIBLE_DEVICES",),
    )
    allocation_policy: Policy = _allocate(
        Policy.PACKED,
        "which devices to prefer: packed (fewest GPUs) or distributed (least loaded GPU first)",
    )
    shared_devices_allocation_policy: Policy = _allocate(
        Policy.DISTRIBUTED, "the same among the replicas of shared devices"
    )
    gdrcopy_enabled: bool = _allocate(
        False, "set NVIDIA_GDRCOPY=enabled in containers", key="gdrcopyEnabled"
    )
    gds_enabled: bool = _allocate(False, "set NVIDIA_GDS=enabled in containers", key="gdsEnabled")
    mofed_enabled: bool = _allocate(
        False, "set NVIDIA_MOFED=enabled in containers", key="mofedEnabled"
    )

    driver_root: str = _driver(
        "/",
        "root of the driver installation on the host, such as /run/nvidia/driver",
        PATH,
        flags=("--driver-root", "--nvidia-driver-root"),
        envs=("NVIDIA_DRIVER_ROOT",),
        key="nvidiaDriverRoot",
        change=_RESTART,
    )
    dev_root: str = _driver(
        "",
        "root of the device nodes on the host",
        PATH,
        flags=("--dev-root", "--nvidia-dev-root"),
        envs=("NVIDIA_DEV_ROOT",),
        key="nvidiaDevRoot",
        change=_RESTART,
        default_meaning="the driver root",
    )
    container_driver_root: str = _driver(
        "/driver-root",
        "where the driver root is mounted in our own container",
        PATH,
        flags=("--driver-root-ctr-path", "--container-driver-root"),
        envs=("DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"),
        key="plugin.containerDriverRoot",
        change=_RESTART,
    )
    proc_root: str = _driver("/proc", "where procfs is mounted", PATH, in_file=False)
    sys_root: str = _driver("/sys", "where sysfs is mounted", PATH, in_file=False)
    simulate: str = _driver(
        "",
        "no GPU: simulate NODE[:GEOMETRY], such as p4d.24xlarge:all-1g.5gb or "
        "p5.48xlarge:all-balanced, or a FILE that `devices --output json` recorded or that has "
        "other cards",
        TEXT._replace(metavar="NODE[:GEOMETRY]"),
        in_file=False,
    )

    disable_healthchecks: HealthChecks = _health(
        HealthChecks(),
        "all (watch nothing), xids, or XIDs by comma that never take a device out",
        _CHECKS,
        envs=("DP_DISABLE_HEALTHCHECKS",),
        key="plugin.disableHealthChecks",
    )
    enable_healthchecks: HealthChecks = _health(
        HealthChecks(),
        "all, xids, or XIDs by comma that always take a device out; wins over what is disabled",
        _CHECKS,
        envs=("DP_ENABLE_HEALTHCHECKS",),
        key="plugin.enableHealthChecks",
    )
    quiet_seconds: float = _health(
        60.0,
        "seconds without trouble before a healed device is offered again; doubles when it flaps, "
        "up to an hour",
        seconds(0.1),
        flags=("--quiet-period",),
    )
    escalate_count: int = _health(
        10,
        "so many faults of applications on one device within the window take it out; 0: never",
        count(0, 1000),  # more would remember every fault of a month
    )
    escalate_seconds: float = _health(
        600.0, "the window in seconds", seconds(1), flags=("--escalate-window",)
    )
    probe_seconds: float = _health(
        4.0,
        "seconds between two probes for what has no event, such as a lost GPU",
        seconds(0.1),
        flags=("--probe-interval",),
    )
    ledger_file: str = _health(
        "",
        "where verdicts and cordons are kept over restarts",
        PATH,
        change=_RESTART,
        default_meaning="/var/lib/mig-device-plugin/ledger.json; a temporary file in a simulation",
    )

    control_socket: str = _daemon(
        "/run/mig-device-plugin/control.sock",
        "socket on which cordon, drain and health clear reach the running daemon; empty: none",
        PATH,
        change=_RESTART,
        default_meaning="/run/mig-device-plugin/control.sock; a simulation without root: in "
        "$XDG_RUNTIME_DIR or ~/.local/state",
        empty=("",),
    )
    fail_on_init_error: bool = _daemon(
        True,
        "exit when the driver cannot be initialised; false: stay up, advertise nothing, keep "
        "trying",
        key="failOnInitError",
        change=_RESTART,  # only the start looks at it
    )
    kubelet_socket: str = _daemon(
        "/var/lib/kubelet/device-plugins/kubelet.sock",
        "kubelet's registration socket; empty: serve without registering",
        PATH,
        in_file=False,
        empty=("",),
    )
    rescan_seconds: float = _daemon(
        30.0,
        "seconds between two looks at the node's devices",
        seconds(1),
        flags=("--rescan-interval",),
    )
    log_level: str = _daemon(
        "info",
        "debug, info, warning or error",
        choice(("debug", "info", "warning", "error")),
        in_file=False,
    )
    log_format: str = _daemon(
        "json", "json, or console for people", choice(("json", "console")), in_file=False
    )
    config_file: str = _daemon(
        "", "YAML or JSON file with further settings", TEXT._replace(metavar="FILE"), in_file=False
    )

    http_address: Address | None = _seen(
        Address("", 9400),
        "HOST:PORT for metrics, probes and the status page; empty: none",
        ADDRESS,
        change=_RESTART,
        empty=(None,),
    )
    http_hosts: tuple[str, ...] = _seen(
        (),
        "host names by which clients may ask, beside IP addresses, localhost and the node's name",
        HOST_NAMES,
        change=_RESTART,
    )
    http_tls_cert: str = _seen(
        "",
        "certificate chain (PEM) for HTTPS; read again when it changes",
        PATH,
        key="plugin.httpTLSCert",
        change=_RESTART,
    )
    http_tls_key: str = _seen(
        "", "its private key (PEM)", PATH, key="plugin.httpTLSKey", change=_RESTART
    )
    dcgm_names: bool = _seen(False, "expose dcgm-exporter's metric names as well", change=_RESTART)
    sample_seconds: float = _seen(
        15.0,
        "seconds between two measurements of the devices' use",
        seconds(1),
        flags=("--sample-interval",),
        change=Change.NEXT_INTERVAL,
    )
    pod_resources_socket: str = _seen(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "kubelet's pod resources socket, which tells who holds a device; empty: do not ask",
        PATH,
        change=_RESTART,
        empty=("",),
    )

    @property
    def host_dev_root(self) -> str:
        """Root of the device nodes as the host (and so the container runtime) sees them."""
        return self.dev_root or self.driver_root
