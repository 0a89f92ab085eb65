"""A sample of values for every option."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plugin.config.flags import add_arguments
from plugin.config.load import Loaded
from plugin.config.options import OPTIONS
from plugin.core.grammars import Address, Taint
from plugin.core.option import Option
from plugin.core.settings import HealthChecks

Load = Callable[..., Loaded]


def arguments(argv: Sequence[str], only: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, only)
    return vars(parser.parse_args(argv))


def document(key: str, value: object) -> dict[str, Any]:
    """A file with one flag."""
    outer, _, inner = key.rpartition(".")
    return {"version": "v1", "flags": {outer: {inner: value}} if outer else {inner: value}}


# ---- precedence


@dataclass(frozen=True)
class Sample:
    """Values for one option, each other than the one it wins over: as given, and as they arrive in
    the settings.
    """

    file: object
    env: str
    flag: str
    arrive: tuple[object, object, object]
    bad: str
    choices: str


def words(file: str, env: str, flag: str, choices: str) -> Sample:
    return Sample(file, env, flag, (file, env, flag), "nonsense", choices)


def path(choices: str = "an absolute path") -> Sample:
    return Sample("/file", "/env", "/flag", ("/file", "/env", "/flag"), "relative", choices)


OFF = Sample(
    file=False,
    env="true",
    flag="0",
    arrive=(False, True, False),
    bad="maybe",
    choices="true or false",
)
ON = Sample(
    file=True,
    env="false",
    flag="yes",
    arrive=(True, False, True),
    bad="maybe",
    choices="true or false",
)
POLICIES = "packed, distributed"

CHECKS = Sample(
    [79, 48],
    "xids",
    "31,all",
    (
        HealthChecks(numbers=frozenset({79, 48})),
        HealthChecks(xids=True),
        HealthChecks(all=True, numbers=frozenset({31})),
    ),
    "xid79",
    "all, xids, or XIDs separated by commas",
)
SAMPLES = {
    "node_name": Sample(
        None,
        "worker-7",
        "ip-10-0-0-1.ec2.internal",
        (None, "worker-7", "ip-10-0-0-1.ec2.internal"),
        "Worker_7",
        "a-z and 0-9 with",
    ),
    "mig_strategy": words("single", "mixed", "none", "none, single, mixed"),
    "single_resource": words("gpu", "profile", "gpu", "profile, gpu"),
    "pass_device_specs": OFF,
    "device_list_strategy": Sample(
        ["volume-mounts", "envvar"],
        "cdi-cri, envvar",
        "cdi-annotations",
        (("volume-mounts", "envvar"), ("cdi-cri", "envvar"), ("cdi-annotations",)),
        "cdi",
        "envvar, volume-mounts, cdi-cri, cdi-annotations",
    ),
    "device_id_strategy": words("index", "uuid", "index", "uuid, index"),
    "cuda_visible_devices": OFF,
    "allocation_policy": words("distributed", "packed", "distributed", POLICIES),
    "shared_devices_allocation_policy": words("packed", "distributed", "packed", POLICIES),
    "gdrcopy_enabled": ON,
    "gds_enabled": ON,
    "mofed_enabled": ON,
    "cdi_vendor": words(
        "k8s.device-plugin.nvidia.com",
        "nvidia.com",
        "k8s.device-plugin.nvidia.com",
        "nvidia.com, k8s.device-plugin.nvidia.com",
    ),
    "cdi_annotation_prefix": Sample(
        "nvidia.cdi.k8s.io/",
        "cdi.k8s.io/",
        "a/",
        ("nvidia.cdi.k8s.io/", "cdi.k8s.io/", "a/"),
        "cdi.k8s.io",
        "a DNS name and a slash",
    ),
    "cdi_directory": path(),
    "nvidia_cdi_hook_path": path(),
    "partition_file": path("an absolute path, or nothing"),
    "partition_mig_mode": OFF,
    "partition_label": Sample(
        "nvidia.com/mig.config",
        "example.com/partition",
        "partition",
        ("nvidia.com/mig.config", "example.com/partition", "partition"),
        f"nvidia.com/{'x' * 58}",
        "a label's key",
    ),
    "partition_in_use": words("evict", "refuse", "force", "wait, evict, refuse, force"),
    "driver_root": path(),
    "dev_root": path(),
    "container_driver_root": path(),
    "library_folders": Sample(
        ["/opt/nvidia/lib"],
        "/a, /b",
        "/c",
        (("/opt/nvidia/lib",), ("/a", "/b"), ("/c",)),
        "lib",
        "absolute paths, separated by commas",
    ),
    "proc_root": path(),
    "sys_root": path(),
    "fail_on_init_error": OFF,
    "kubelet_socket": path(),
    "rescan_seconds": Sample(5, "7.5", "10s", (5.0, 7.5, 10.0), "0.5", "seconds from 1 to 86400"),
    "disable_healthchecks": CHECKS,
    "enable_healthchecks": CHECKS,
    "quiet_seconds": Sample(5, "0.5", "10s", (5.0, 0.5, 10.0), "0", "seconds from 0.1 to 86400"),
    "escalate_count": Sample(3, "0", "1000", (3, 0, 1000), "-1", "a number from 0 to 1000"),
    "escalate_seconds": Sample(5, "7", "10s", (5.0, 7.0, 10.0), "0", "seconds from 1 to 86400"),
    "probe_seconds": Sample(5, "0.5", "10s", (5.0, 0.5, 10.0), "0", "seconds from 0.1 to 86400"),
    "ledger_file": path(),
    "control_socket": path(),
    "http_address": Sample(
        "127.0.0.1:1",
        "[::1]:2",
        ":3",
        (Address("127.0.0.1", 1), Address("::1", 2), Address("", 3)),
        "::1:80",
        "HOST:PORT, :PORT, [IPV6]:PORT",
    ),
    "http_hosts": Sample(
        ["gpu.example.com"],
        "node-7, *.Example.com",
        "*",
        (("gpu.example.com",), ("node-7", "*.example.com"), ("*",)),
        "http://a",
        "host names or *.DOMAIN",
    ),
    "http_token_file": path(),
    "dcgm_names": ON,
    "sample_seconds": Sample(5, "7", "10s", (5.0, 7.0, 10.0), "0", "seconds from 1 to 86400"),
    "pod_resources_socket": path(),
    "features_file": path(),
    "node_labels": ON,
    "node_events": ON,
    "node_condition": Sample(
        "MigDevicesHealthy",
        "example.com/Gpus",
        "GPUsHealthy",
        ("MigDevicesHealthy", "example.com/Gpus", "GPUsHealthy"),
        "Ready",
        "a condition's type",
    ),
    "node_taint": Sample(
        "nvidia.com/gpu-needs-reset:NoSchedule",
        "gpu=ill:NoExecute",
        "a:PreferNoSchedule",
        (
            Taint("nvidia.com/gpu-needs-reset", "", "NoSchedule"),
            Taint("gpu", "ill", "NoExecute"),
            Taint("a", "", "PreferNoSchedule"),
        ),
        "node.kubernetes.io/unreachable:NoExecute",
        "KEY:EFFECT or KEY=VALUE:EFFECT",
    ),
    "config_dir": path(),
    **dict.fromkeys(
        ("config_name", "config_default"),
        Sample(None, "a100", "b.yaml", (None, "a100", "b.yaml"), "..data", "a file's name"),
    ),
    "config_label": Sample(
        None,
        "example.com/gpu.config",
        "config",
        (None, "example.com/gpu.config", "config"),
        "/x",
        "a label's key",
    ),
    "startup_taint": Sample(
        "nvidia.com/gpu-starting:NoSchedule",
        "gpu=ill:NoExecute",
        "a:PreferNoSchedule",
        (
            Taint("nvidia.com/gpu-starting", "", "NoSchedule"),
            Taint("gpu", "ill", "NoExecute"),
            Taint("a", "", "PreferNoSchedule"),
        ),
        "node.kubernetes.io/unreachable:NoExecute",
        "KEY:EFFECT or KEY=VALUE:EFFECT",
    ),
    "log_level": words("debug", "warning", "error", "debug, info, warning, error"),
    "log_format": words("json", "console", "json", "json, console"),
}


def option(field: str) -> Option:
    return next(option for option in OPTIONS if option.field == field)


SLICING = "sharing.timeSlicing"
