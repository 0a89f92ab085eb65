"""Stories of metrics for promtool, at least one per alert."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

TARGET = {"job": "mig-device-plugin", "instance": "plugin-x", "node": "node-1"}
CARD = TARGET | {"gpu": "3", "uuid": "GPU-a"}
DEVICE = TARGET | {
    "gpu": "3",
    "uuid": "MIG-b",
    "parent_uuid": "GPU-a",
    "profile": "1g.10gb",
    "resource": "r",
}
OTHER = DEVICE | {"uuid": "MIG-c"}
POD = {"namespace": "ml", "pod": "train", "container": "main"}
DAEMONSET = {"namespace": "kube-system", "daemonset": "gpu-mig-device-plugin"}
PREFIX = "mig_device_plugin_"


def without(labels: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name not in names}


@dataclass(frozen=True, slots=True)
class Story:
    """One alert over some hours of metrics.

    ``series`` are (metric, labels, values a minute apart in promtool's notation). At the minute
    ``fires`` the alert fires once, with ``labels`` and ``summary``, at those in ``quiet`` it does
    not.
    """

    alert: str
    series: tuple[tuple[str, dict[str, str], str], ...]
    fires: int
    quiet: tuple[int, ...]
    labels: dict[str, str]
    summary: str
    values: dict[str, Any] = field(default_factory=dict)


STORIES = (
    Story(
        "MigPluginDown",
        (("up", TARGET, "1 0x6 1x5"), ("up", {"job": "another"}, "0x12")),
        6,
        (0, 5, 9),
        TARGET,
        "The MIG device plugin on node node-1 does not answer Prometheus",
    ),
    Story(
        "MigPluginAbsent",
        (("up", TARGET, "_x20 1x10"),),
        15,
        (9, 21),
        {"job": "mig-device-plugin"},
        "Prometheus finds no MIG device plugin at all",
    ),
    Story(
        "MigPluginMissingOnNodes",
        (
            ("kube_daemonset_status_desired_number_scheduled", DAEMONSET, "5x40"),
            ("kube_daemonset_status_number_available", DAEMONSET, "5 3x19 5x20"),
        ),
        18,
        (15, 22),
        DAEMONSET,
        "The MIG device plugin is not available on 2 of its nodes",
    ),
    Story(
        "MigPluginStuck",
        ((f"{PREFIX}stuck_tasks", TARGET, "0 1x4 0x5"),),
        4,
        (2, 6),
        TARGET,
        "1 tasks of the MIG device plugin on node node-1 hang",
    ),
    Story(
        "MigConfigRefused",
        ((f"{PREFIX}config_valid", TARGET, "1 0x7 1x5"),),
        7,
        (5, 10),
        TARGET,
        "The newest configuration of node node-1 is not in force",
    ),
    Story(
        "MigNodeNotReported",
        ((f"{PREFIX}cluster_problems", TARGET, "0 2x17 0x5"),),
        17,
        (15, 20),
        TARGET,
        "What node node-1 has is not reported to the cluster",
    ),
    Story(
        "MigDriverNotAnswering",
        ((f"{PREFIX}driver_busy_seconds", TARGET, "0 20 31 90 150 0x5"),),
        3,
        (0, 1, 2, 5),
        TARGET,
        "The NVIDIA driver on node node-1 has not come back from a call for 1m 30s",
    ),
    Story(
        "MigDriverUnavailable",
        ((f"{PREFIX}driver_up", TARGET, "1 0x7 1x5"),),
        7,
        (5, 10),
        TARGET,
        "The NVIDIA driver on node node-1 cannot be used",
    ),
    Story(
        "MigDriverReleased",
        ((f"{PREFIX}driver_released", TARGET, "0 1x62 0x5"),),
        62,
        (60, 64),
        TARGET,
        "The NVIDIA driver on node node-1 has been released for an hour",
    ),
    Story(
        "MigEventsUnwatched",
        ((f"{PREFIX}unwatched_gpus", TARGET, "0 2x7 0x5"),),
        7,
        (5, 10),
        TARGET,
        "Faults of 2 GPUs on node node-1 are not watched",
    ),
    Story(
        "MigResourceNotRegistered",
        (
            (f"{PREFIX}registered", TARGET | {"resource": "nvidia.com/mig-1g.10gb"}, "1 0x7 1x5"),
            (
                f"{PREFIX}stream_start_timestamp_seconds",
                TARGET | {"resource": "nvidia.com/mig-1g.10gb"},
                "1 _x7 1x5",
            ),
        ),
        7,
        (5, 10),
        TARGET | {"resource": "nvidia.com/mig-1g.10gb"},
        "nvidia.com/mig-1g.10gb of node node-1 is not registered with kubelet",
    ),
    # Registered, but kubelet does not listen. Prometheus is told that the series ended.
    Story(
        "MigResourceNotRegistered",
        (
            (f"{PREFIX}registered", TARGET | {"resource": "nvidia.com/gpu"}, "1x13"),
            (
                f"{PREFIX}stream_start_timestamp_seconds",
                TARGET | {"resource": "nvidia.com/gpu"},
                "1 stale _x6 1x5",
            ),
        ),
        7,
        (5, 10),
        TARGET | {"resource": "nvidia.com/gpu"},
        "nvidia.com/gpu of node node-1 is not registered with kubelet",
    ),
    # While another plugin serves it, that is told by an alert of its own.
    Story(
        "MigResourceNotRegistered",
        (
            (f"{PREFIX}rival", TARGET | {"resource": "nvidia.com/gpu"}, "0 1x8 0x15"),
            (f"{PREFIX}registered", TARGET | {"resource": "nvidia.com/gpu"}, "1 0x18 1x5"),
            (
                f"{PREFIX}stream_start_timestamp_seconds",
                TARGET | {"resource": "nvidia.com/gpu"},
                "1x24",
            ),
        ),
        16,
        (8, 12, 21),
        TARGET | {"resource": "nvidia.com/gpu"},
        "nvidia.com/gpu of node node-1 is not registered with kubelet",
    ),
    Story(
        "MigResourceServedTwice",
        (
            (f"{PREFIX}rival", TARGET | {"resource": "nvidia.com/gpu"}, "0 1x9 0x5"),
            (f"{PREFIX}registered", TARGET | {"resource": "nvidia.com/gpu"}, "1 0x9 1x5"),
            (
                f"{PREFIX}stream_start_timestamp_seconds",
                TARGET | {"resource": "nvidia.com/gpu"},
                "1x15",
            ),
        ),
        4,
        (2, 11),
        TARGET | {"resource": "nvidia.com/gpu"},
        "Another device plugin serves nvidia.com/gpu on node node-1",
    ),
    Story(
        "MigAllocationsFail",
        (
            (
                f"{PREFIX}call_errors_total",
                TARGET | {"resource": "r", "method": "Allocate"},
                "_ _ 1x20",
            ),
            (
                f"{PREFIX}call_errors_total",
                TARGET | {"resource": "r", "method": "GetPreferredAllocation"},
                "1+1x22",
            ),
        ),
        2,
        (1, 12),
        TARGET | {"resource": "r", "method": "Allocate"},
        "Containers on node node-1 were refused r",
    ),
    Story(
        "MigHoldersUnknown",
        ((f"{PREFIX}holders_known", TARGET, "1 0x16 1x5"),),
        17,
        (15, 19),
        TARGET,
        "Kubelet on node node-1 does not say which pods hold MIG devices",
    ),
    # The pod that holds it ends meanwhile: it is the same alert.
    Story(
        "MigDeviceDown",
        (
            (
                f"{PREFIX}device_unhealthy_reason",
                DEVICE | POD | {"reason": "xid-79"},
                "_ 1x3 stale",
            ),
            (f"{PREFIX}device_unhealthy_reason", DEVICE | {"reason": "xid-79"}, "_x5 1x3 stale"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | {"reason": "cordoned"}, "1x20"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | {"reason": "driver-unavailable"}, "1x20"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | {"reason": "withheld"}, "1x20"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | {"reason": "released"}, "1x20"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | {"reason": "partitioning"}, "1x20"),
        ),
        7,
        (5, 9),
        DEVICE | {"reason": "xid-79"},
        "MIG device 1g.10gb on GPU 3 of node node-1 is out of service: xid-79",
    ),
    Story(
        "MigDeviceDown",
        (
            (
                f"{PREFIX}device_unhealthy_reason",
                CARD | {"parent_uuid": "GPU-a", "reason": "lost"},
                "1x6 stale",
            ),
        ),
        6,
        (4, 7),
        CARD | {"parent_uuid": "GPU-a", "reason": "lost"},
        "GPU 3 of node node-1 is out of service: lost",
    ),
    Story(
        "MigGpuDown",
        (
            (f"{PREFIX}device_healthy", DEVICE | POD, "1 0x7 1x5"),
            (f"{PREFIX}device_healthy", OTHER, "1 0x7 1x5"),
            (
                f"{PREFIX}device_unhealthy_reason",
                DEVICE | POD | {"reason": "xid-79"},
                "_ 1x6 stale",
            ),
            (
                f"{PREFIX}device_unhealthy_reason",
                DEVICE | POD | {"reason": "recovery-action"},
                "_ 1x6 stale",
            ),
            (f"{PREFIX}device_unhealthy_reason", OTHER | {"reason": "xid-79"}, "_ 1x6 stale"),
        ),
        7,
        (5, 10),
        without(DEVICE, "uuid", "profile", "resource"),
        "Everything on GPU 3 of node node-1 is out of service",
    ),
    Story(
        "MigPodOnFaultyDevice",
        (
            (f"{PREFIX}device_allocated", DEVICE | POD, "1x4 stale"),
            (f"{PREFIX}device_allocated", OTHER | POD, "1x9"),
            (f"{PREFIX}device_unhealthy_reason", DEVICE | POD | {"reason": "xid-79"}, "_ 1x9"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | POD | {"reason": "cordoned"}, "1x9"),
            (f"{PREFIX}device_unhealthy_reason", OTHER | POD | {"reason": "partitioning"}, "1x9"),
        ),
        3,
        (1, 5),
        DEVICE | POD,
        "Pod ml/train runs on a faulty GPU device",
    ),
    Story(
        "MigFaultStorm",
        (
            (f"{PREFIX}device_xid_errors_total", DEVICE | {"xid": "13"}, "1x3 6x30"),
            (f"{PREFIX}device_xid_errors_total", DEVICE | {"xid": "31"}, "_x4 5x30"),
            (f"{PREFIX}device_xid_errors_total", OTHER | {"xid": "31"}, "_x4 9x30"),
        ),
        4,
        (3, 15),
        DEVICE,
        "11 faults within 10m on GPU 3 of node node-1",
    ),
    Story(
        "MigFaultStorm",
        ((f"{PREFIX}device_xid_errors_total", DEVICE | {"xid": "13"}, "_ 3x9"),),
        1,
        (0, 6),
        DEVICE,
        "3 faults within 5m on GPU 3 of node node-1",
        {"faultStorm": {"count": 3, "window": "5m"}},
    ),
    Story(
        "MigDeviceFlapping",
        ((f"{PREFIX}device_recoveries_total", DEVICE, "0x19 1x19 2x19 4x400"),),
        120,
        (50, 440),
        DEVICE,
        "A device on GPU 3 of node node-1 fails again and again",
    ),
    Story(
        "MigDevicesWithheld",
        ((f"{PREFIX}devices", TARGET | {"resource": "", "state": "withheld"}, "0 7x32 0x5"),),
        32,
        (30, 34),
        TARGET | {"state": "withheld"},
        "7 devices of node node-1 are offered under no resource",
    ),
    Story(
        "MigGeometryUnstable",
        ((f"{PREFIX}geometry_generation", TARGET, "1+1x7 8x70"),),
        7,
        (5, 70),
        TARGET,
        "MIG devices of node node-1 were changed 7 times within an hour",
    ),
    *(
        Story(
            "MigPartitionFailed",
            (
                (f"{PREFIX}partition_state", wanted | {"state": "applying"}, "1x2 stale"),
                (f"{PREFIX}partition_state", wanted | {"state": state}, "_ _ _ 1x7 stale"),
                (f"{PREFIX}partition_state", wanted | {"state": "success"}, "_x11 1x5"),
            ),
            9,
            (7, 13),
            wanted | {"state": state},
            f"Configuration all-balanced is not applied on node node-1: {state}",
        )
        for wanted in (TARGET | {"configuration": "all-balanced"},)
        for state in ("failed", "reset-needed")
    ),
    # GPUs that change in between end no waiting.
    Story(
        "MigPartitionWaits",
        (
            (
                f"{PREFIX}partition_state",
                TARGET | {"configuration": "a", "state": "waiting"},
                "_ 1x99 stale _x4 1x150 stale",
            ),
            (
                f"{PREFIX}partition_state",
                TARGET | {"configuration": "a", "state": "applying"},
                "_x101 1x4 stale",
            ),
            (
                f"{PREFIX}partition_state",
                TARGET | {"configuration": "a", "state": "success"},
                "_x257 1x5",
            ),
        ),
        250,
        (239, 260),
        TARGET | {"configuration": "a"},
        "Configuration a still waits to be applied on node node-1",
    ),
    Story(
        "MigCordonForgotten",
        (
            (f"{PREFIX}device_cordoned", DEVICE, "0 1x1450 0x5"),
            (f"{PREFIX}device_cordoned", OTHER, "0 1x9 0x1450"),
        ),
        1445,
        (1440, 1452),
        without(DEVICE, "uuid", "profile", "resource"),
        "Devices on GPU 3 of node node-1 have been cordoned for a day",
    ),
    *(
        Story(
            "MigGpuNeedsRecovery",
            ((f"{PREFIX}gpu_recovery_action", CARD, f"0 {action}x6 0x5"),),
            6,
            (5, 8),
            CARD,
            f"The driver asks for recovery of GPU 3 on node node-1: {recommendation}",
        )
        for action, recommendation in {
            1: "reset the GPU",
            2: "reboot the node",
            4: "drain and reset the GPU",
            5: "action 5",
        }.items()
    ),
    Story(
        "MigRowRemapFailed",
        ((f"{PREFIX}gpu_row_remap_failure", CARD, "0 1x3 0x3"),),
        1,
        (0, 5),
        CARD,
        "GPU 3 of node node-1 has run out of spare memory rows",
    ),
    Story(
        "MigRowRemapPending",
        ((f"{PREFIX}gpu_row_remap_pending", CARD, "0 1x62 0x3"),),
        62,
        (60, 64),
        CARD,
        "GPU 3 of node node-1 waits for a reset to replace faulty memory rows",
    ),
)
