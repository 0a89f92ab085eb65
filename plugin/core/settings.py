"""Everything that can be configured; ``plugin.config.load`` fills it from flags,
environment and file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


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

    def covers(self, xid: int) -> bool:
        return self.all or self.xids or xid in self.numbers


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per option; each option's flag, variable, key and words are in
    ``plugin.config.options.OPTIONS``.
    """

    # what is advertised
    mig_strategy: MigStrategy = MigStrategy.NONE
    single_resource: SingleResource = SingleResource.PROFILE
    sharing: Sharing = field(default_factory=Sharing)
    # what a container is given
    pass_device_specs: bool = True
    device_list_strategy: tuple[DeviceListStrategy, ...] = (DeviceListStrategy.ENVVAR,)
    device_id_strategy: DeviceIdStrategy = DeviceIdStrategy.UUID
    cuda_visible_devices: bool = True
    gdrcopy_enabled: bool = False
    gds_enabled: bool = False
    mofed_enabled: bool = False
    # which devices are preferred
    allocation_policy: Policy = Policy.PACKED
    shared_devices_allocation_policy: Policy = Policy.DISTRIBUTED
    # where the driver is
    driver_root: str = "/"
    dev_root: str = ""  # empty: as driver_root
    container_driver_root: str = "/driver-root"
    proc_root: str = "/proc"
    sys_root: str = "/sys"
    simulate: str = ""
    # what takes devices out of service, and what brings them back
    disable_healthchecks: HealthChecks = HealthChecks()
    enable_healthchecks: HealthChecks = HealthChecks()
    quiet_seconds: float = 60.0
    escalate_count: int = 10
    escalate_seconds: float = 600.0
    probe_seconds: float = 4.0
    ledger_file: str = ""  # empty: the usual path, or a temporary one for a simulated node
    # how the daemon runs
    control_socket: str = "/run/mig-device-plugin/control.sock"
    fail_on_init_error: bool = True
    kubelet_socket: str = "/var/lib/kubelet/device-plugins/kubelet.sock"
    rescan_seconds: float = 30.0
    # what can be seen
    http_address: str = ":9400"
    http_hosts: tuple[str, ...] = ()
    http_tls_cert: str = ""
    http_tls_key: str = ""
    dcgm_names: bool = False
    sample_seconds: float = 15.0
    pod_resources_socket: str = "/var/lib/kubelet/pod-resources/kubelet.sock"
    log_level: str = "info"
    log_format: str = "json"
    config_file: str = ""

    @property
    def host_dev_root(self) -> str:
        """Root of the device nodes as the host (and so the container runtime) sees them."""
        return self.dev_root or self.driver_root
