"""Every option of the plugin; ``plugin.config`` reads the values from flags, environment and file.

Names and values are those of NVIDIA's device plugin wherever it has the option.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from msgspec import Struct

from plugin.core.advertise.naming import Naming
from plugin.core.grammars import (
    ADDRESS,
    ANNOTATION_PREFIX,
    ANSWERED_LABEL_KEY,
    CONDITION_TYPE,
    CONFIG_NAME,
    HOST_NAMES,
    LABEL_KEY,
    NODE_NAME,
    PATH,
    PATHS,
    TAINT,
    TEXT,
    Address,
    Grammar,
    Taint,
    choice,
    count,
    items,
    seconds,
    several,
)
from plugin.core.option import Change, Group
from plugin.core.partition.policy import Policy as InUsePolicy


class MigStrategy(enum.StrEnum):
    """How MIG devices become resources."""

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


class SingleResource(enum.StrEnum):
    """The resource name under ``single``; NVIDIA uses ``nvidia.com/gpu``."""

    PROFILE = "profile"
    GPU = "gpu"


class DeviceListStrategy(enum.StrEnum):
    """How the container runtime learns which devices to inject."""

    ENVVAR = "envvar"
    VOLUME_MOUNTS = "volume-mounts"
    CDI_CRI = "cdi-cri"
    CDI_ANNOTATIONS = "cdi-annotations"

    @property
    def by_cdi(self) -> bool:
        """Whether the list consists of names of a CDI specification."""
        return self in {DeviceListStrategy.CDI_CRI, DeviceListStrategy.CDI_ANNOTATIONS}


class CdiVendor(enum.StrEnum):
    """Whose names devices have in the CDI specification."""

    NVIDIA = "nvidia.com"
    DEVICE_PLUGIN = "k8s.device-plugin.nvidia.com"


class DeviceIdStrategy(enum.StrEnum):
    """The kind of id in the runtime's device list."""

    UUID = "uuid"
    INDEX = "index"


class Policy(enum.StrEnum):
    """Preferred allocation: fill GPUs, or spread over them."""

    PACKED = "packed"
    DISTRIBUTED = "distributed"


class SharedResource(Struct, frozen=True):
    """One entry of ``sharing.timeSlicing.resources``.

    ``devices`` selects the devices to share: ``None`` for all, a number for that many, else indices
    and UUIDs.
    """

    name: str
    replicas: int
    rename: str | None = None
    devices: int | tuple[str, ...] | None = None


class Sharing(Struct, frozen=True):
    """Time slicing: each device has several ids (replicas)."""

    resources: tuple[SharedResource, ...] = ()
    rename_by_default: bool = False
    fail_requests_greater_than_one: bool = False


class HealthChecks(Struct, frozen=True):
    """A set of health checks: ``all``, all ``xids``, or the XIDs in ``numbers``."""

    all: bool = False
    xids: bool = False
    numbers: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return self.all or self.xids or bool(self.numbers)

    def __str__(self) -> str:
        groups = ["all"] * self.all + ["xids"] * self.xids
        return ",".join([*groups, *map(str, sorted(self.numbers))])

    def covers(self, xid: int) -> bool:
        return self.all or self.xids or xid in self.numbers


def _health_checks(value: object) -> HealthChecks:
    checks = set(items(value)) - {""}
    numbers = checks - {"all", "xids"}
    if not all(_XID.fullmatch(number) for number in numbers):
        raise ValueError(value)
    return HealthChecks("all" in checks, "xids" in checks, frozenset(map(int, numbers)))


_XID = re.compile(r"[0-9]{1,5}")
_CHECKS = Grammar(_health_checks, "all, xids, or XIDs separated by commas")

_advertise = Group("advertising").option
_allocate = Group("allocation").option
_cdi = Group("CDI").option
_driver = Group("driver").option
_health = Group("health").option
_partition = Group("partitioning").option
_daemon = Group("daemon").option
_observe = Group("observability").option
_cluster = Group("cluster").option

_RESTART = Change.RESTART


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per option. Unless the declaration says otherwise, the flag follows from the
    field's name, the variable and the file key (under ``flags.plugin``) from the flag, and a change
    takes effect at once.
    """

    sharing: Sharing = Sharing()
    naming: Naming = Naming()

    mig_strategy: MigStrategy = _advertise(
        MigStrategy.MIXED,
        "mixed: each MIG device as nvidia.com/mig-<profile>, other GPUs as nvidia.com/gpu; single: "
        "the same, where all MIG devices of the node must be of one profile; none: whole GPUs only",
        key="migStrategy",
    )
    single_resource: SingleResource = _advertise(
        SingleResource.PROFILE,
        "name of the resource under single: profile (nvidia.com/mig-<profile>) or gpu "
        "(nvidia.com/gpu)",
    )

    pass_device_specs: bool = _allocate(
        True,
        "list the device nodes in the Allocate response",
        default_meaning="true; false in a simulation",
    )
    device_list_strategy: tuple[DeviceListStrategy, ...] = _allocate(
        (DeviceListStrategy.ENVVAR,),
        "how to pass the device list to the container runtime: envvar, volume-mounts, cdi-cri, "
        "cdi-annotations, or several of them",
        several(DeviceListStrategy),
    )
    device_id_strategy: DeviceIdStrategy = _allocate(
        DeviceIdStrategy.UUID,
        "ids in that list: uuid, or index (0:3 is MIG device 3 of GPU 0)",
        key="plugin.deviceIDStrategy",
    )
    cuda_visible_devices: bool = _allocate(
        True,
        "set CUDA_VISIBLE_DEVICES as well as NVIDIA_VISIBLE_DEVICES",
        envs=("SET_CUDA_VISIBLE_DEVICES",),
    )
    allocation_policy: Policy = _allocate(
        Policy.PACKED,
        "preferred devices: packed (fewest GPUs) or distributed (least loaded GPU first)",
    )
    shared_devices_allocation_policy: Policy = _allocate(
        Policy.DISTRIBUTED, "the same for replicas of shared devices"
    )
    gdrcopy_enabled: bool = _allocate(
        False, "set NVIDIA_GDRCOPY=enabled in containers", key="gdrcopyEnabled"
    )
    gds_enabled: bool = _allocate(False, "set NVIDIA_GDS=enabled in containers", key="gdsEnabled")
    mofed_enabled: bool = _allocate(
        False, "set NVIDIA_MOFED=enabled in containers", key="mofedEnabled"
    )

    cdi_vendor: CdiVendor = _cdi(
        CdiVendor.NVIDIA,
        "nvidia.com: MIG devices are nvidia.com/mig=…, GPUs nvidia.com/gpu=…; "
        "k8s.device-plugin.nvidia.com: both are …/gpu=…, as NVIDIA's plugin names them",
    )
    cdi_annotation_prefix: str = _cdi(
        "cdi.k8s.io/", "prefix of the annotations of cdi-annotations", ANNOTATION_PREFIX
    )
    cdi_directory: str = _cdi(
        "",
        "directory of the CDI specification",
        PATH,
        change=_RESTART,
        default_meaning="/var/run/cdi; beside the ledger in a simulation",
    )
    nvidia_cdi_hook_path: str = _cdi(
        "",
        "nvidia-cdi-hook or nvidia-ctk on the host: the specification uses its hooks if it exists; "
        "empty: no hooks",
        PATH,
        flags=("--nvidia-cdi-hook-path", "--nvidia-ctk-path"),
        envs=("NVIDIA_CDI_HOOK_PATH", "NVIDIA_CTK_PATH"),
        key="plugin.nvidiaCTKPath",
        change=_RESTART,
        empty=("",),
    )

    driver_root: str = _driver(
        "/",
        "root of the driver installation on the host, for example /run/nvidia/driver",
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
        "mount point of the driver root in the plugin's container",
        PATH,
        flags=("--driver-root-ctr-path", "--container-driver-root"),
        envs=("DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"),
        key="plugin.containerDriverRoot",
        change=_RESTART,
    )
    library_folders: tuple[str, ...] = _driver(
        (),
        "further folders below the driver root in which to look for libnvidia-ml.so.1",
        PATHS,
        change=_RESTART,
    )
    proc_root: str = _driver("/proc", "mount point of procfs", PATH, in_file=False)
    sys_root: str = _driver("/sys", "mount point of sysfs", PATH, in_file=False)
    simulate: str = _driver(
        "",
        "simulate NODE[:GEOMETRY] without a GPU, for example p4d.24xlarge:all-1g.5gb or "
        "p5.48xlarge:all-balanced; or FILE, a recording by `devices --output json` or other cards",
        TEXT._replace(metavar="NODE[:GEOMETRY]"),
        in_file=False,
    )

    disable_healthchecks: HealthChecks = _health(
        HealthChecks(),
        "checks to ignore: all (no health checks), xids, or XIDs separated by commas",
        _CHECKS,
        envs=("DP_DISABLE_HEALTHCHECKS",),
        key="plugin.disableHealthChecks",
    )
    enable_healthchecks: HealthChecks = _health(
        HealthChecks(),
        "checks that always take a device out of service, even if disabled: all, xids, or XIDs "
        "separated by commas",
        _CHECKS,
        envs=("DP_ENABLE_HEALTHCHECKS",),
        key="plugin.enableHealthChecks",
    )
    quiet_seconds: float = _health(
        60.0,
        "hold-down: seconds without a fault before a recovered device returns to service; doubles "
        "for a flapping device, up to an hour",
        seconds(0.1),
        flags=("--quiet-period",),
    )
    escalate_count: int = _health(
        10,
        "incidents of applications within the window that take a device out of service; 0: never",
        count(0, 1000),  # the ledger keeps every incident in the window
    )
    escalate_seconds: float = _health(
        600.0, "length of that window in seconds", seconds(1), flags=("--escalate-window",)
    )
    probe_seconds: float = _health(
        4.0,
        "seconds between two probes for faults without an event, such as a lost GPU",
        seconds(0.1),
        flags=("--probe-interval",),
    )
    ledger_file: str = _health(
        "",
        "file that keeps faults and cordons across restarts",
        PATH,
        change=_RESTART,
        default_meaning="/var/lib/mig-device-plugin/ledger.json; a temporary file in a simulation",
    )

    partition_config: str = _partition(
        "",
        "MIG configuration to apply to this node, such as all-balanced; empty: none",
        TEXT._replace(metavar="NAME"),
        change=_RESTART,
        empty=("",),
    )
    partition_file: str = _partition(
        "",
        "file of MIG configurations in mig-parted's format, besides those that every node has",
        PATH,
        change=_RESTART,
        empty=("",),
    )
    partition_in_use: InUsePolicy = _partition(
        InUsePolicy.WAIT,
        "what to do about devices in the way that are in use: wait, evict their pods, refuse the "
        "configuration, or force (destroy them all the same)",
    )
    partition_mig_mode: bool = _partition(
        True,
        "switch MIG mode where the configuration asks for it, which resets the GPU on Ampere; "
        "false: the administrator switches it, and the GPU waits for that",
    )
    partition_label: str = _partition(
        "",
        "node label that names the MIG configuration to apply, such as nvidia.com/mig.config; "
        "answered in the label KEY.state; needs the API server; empty: none",
        ANSWERED_LABEL_KEY,
        change=_RESTART,
        empty=("",),
    )

    node_name: str = _daemon(
        "",
        "the node's name on the page, in the state and in metrics, and of its Node in the cluster",
        NODE_NAME,
        in_file=False,
        default_meaning="the host's name",
    )
    control_socket: str = _daemon(
        "/run/mig-device-plugin/control.sock",
        "control socket for cordon, drain and health clear; empty: none",
        PATH,
        change=_RESTART,
        default_meaning="/run/mig-device-plugin/control.sock; a simulation without root: in "
        "$XDG_RUNTIME_DIR or ~/.local/state",
        empty=("",),
    )
    fail_on_init_error: bool = _daemon(
        True,
        "exit if the driver cannot be initialised; false: keep running and retrying, and advertise "
        "nothing",
        key="failOnInitError",
        change=_RESTART,  # used at start only
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
        "seconds between two rescans of the node's devices",
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
        "json", "json, or console for terminals", choice(("json", "console")), in_file=False
    )
    config_file: str = _daemon(
        "",
        "YAML or JSON file with further settings; applied while running when it changes",
        TEXT._replace(metavar="FILE"),
        in_file=False,
    )
    config_dir: str = _daemon(
        "",
        "directory with several such files, one per configuration, as a mounted ConfigMap; instead "
        "of --config-file",
        PATH,
        in_file=False,
    )
    config_name: str = _daemon(
        "",
        "which file of --config-dir to use; --config-label is not read then",
        CONFIG_NAME,
        in_file=False,
    )
    config_label: str = _daemon(
        "",
        "node label that names the file of --config-dir, such as nvidia.com/device-plugin.config; "
        "needs the API server",
        LABEL_KEY,
        in_file=False,
        default_meaning="none",
    )
    config_default: str = _daemon(
        "",
        "the file of --config-dir for a node without a name or label",
        CONFIG_NAME,
        in_file=False,
        default_meaning="the file called default, or the only one",
    )

    http_address: Address | None = _observe(
        Address("", 9400),
        "HOST:PORT for metrics, probes and the status page; empty: none",
        ADDRESS,
        change=_RESTART,
        empty=(None,),
    )
    http_hosts: tuple[str, ...] = _observe(
        (),
        "host names to accept, besides IP addresses, localhost and the node's name",
        HOST_NAMES,
        change=_RESTART,
    )
    http_tls_cert: str = _observe(
        "",
        "certificate chain (PEM) for HTTPS; reloaded when it changes",
        PATH,
        key="plugin.httpTLSCert",
        change=_RESTART,
    )
    http_tls_key: str = _observe(
        "", "private key (PEM) for the certificate", PATH, key="plugin.httpTLSKey", change=_RESTART
    )
    http_token_file: str = _observe(
        "",
        "file with bearer tokens, one per line; clients must send one for everything but the "
        "probes; reloaded when it changes",
        PATH,
        change=_RESTART,
    )
    dcgm_names: bool = _observe(False, "also expose dcgm-exporter's metric names", change=_RESTART)
    sample_seconds: float = _observe(
        15.0,
        "seconds between two utilisation samples",
        seconds(1),
        flags=("--sample-interval",),
        change=Change.NEXT_INTERVAL,
    )
    pod_resources_socket: str = _observe(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "kubelet's pod resources socket, for the pods that hold devices; empty: not used",
        PATH,
        change=_RESTART,
        empty=("",),
    )

    features_file: str = _cluster(
        "",
        "file of node labels for Node Feature Discovery, for example "
        "/etc/kubernetes/node-feature-discovery/features.d/mig-device-plugin; empty: none",
        PATH,
        change=_RESTART,
        empty=("",),
    )
    node_labels: bool = _cluster(
        False, "write the node's labels through the API server", change=_RESTART
    )
    node_events: bool = _cluster(
        False, "report faults and changes as Events on the node and on pods", change=_RESTART
    )
    node_condition: str = _cluster(
        "",
        "type of a node condition that says whether all devices are healthy, for example "
        "MigDevicesHealthy; empty: none",
        CONDITION_TYPE,
        change=_RESTART,
        empty=("",),
    )
    node_taint: Taint | None = _cluster(
        None,
        "taint of the node while a GPU needs a reset or the node a reboot, for example "
        "nvidia.com/gpu-needs-reset:NoSchedule; empty: none",
        TAINT,
        change=_RESTART,
        empty=(None,),
    )

    startup_taint: Taint | None = _cluster(
        None,
        "taint to remove from the node once kubelet has every resource: whoever creates the node "
        "sets it, for example nvidia.com/gpu-starting:NoSchedule; empty: none",
        TAINT,
        change=_RESTART,
        empty=(None,),
    )
    kubeconfig: str = _cluster(
        "",
        "kubeconfig file for the API server",
        TEXT._replace(metavar="FILE"),
        in_file=False,
        change=_RESTART,
        default_meaning="the pod's service account",
    )

    @property
    def by_cdi(self) -> bool:
        """Whether containers get devices through a CDI specification."""
        return any(strategy.by_cdi for strategy in self.device_list_strategy)

    @property
    def is_labelled(self) -> bool:
        """Whether a label of the node names the configuration."""
        return bool(self.config_label) and not self.config_name

    @property
    def by_cluster(self) -> bool:
        """Whether a feature uses the Kubernetes API all the time."""
        return bool(
            self.is_labelled
            or self.node_labels
            or self.node_events
            or self.node_condition
            or self.node_taint
            or self.startup_taint
            or self.partition_label
        )

    @property
    def host_dev_root(self) -> str:
        """Root of the device nodes on the host, where the container runtime resolves them."""
        return self.dev_root or self.driver_root
