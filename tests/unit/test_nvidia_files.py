"""Configuration files of NVIDIA's device plugin run as they are: each key is honoured, accepted
with one warning, or refused with a sentence.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugin.config.options import IGNORED_KEYS, IGNORED_SECTIONS, OPTIONS
from plugin.core.advertise.naming import NamePattern, Naming
from plugin.core.settings import (
    DeviceIdStrategy,
    DeviceListStrategy,
    MigStrategy,
    Policy,
    Settings,
    SharedResource,
    Sharing,
)
from plugin.errors import ConfigError

from .config_samples import Load

#: Every key of the plugin's configuration, version 0.20, below ``flags``.
KEYS = {
    *("migStrategy", "failOnInitError", "mpsRoot", "nvidiaDriverRoot", "nvidiaDevRoot"),
    *("gdrcopyEnabled", "gdsEnabled", "mofedEnabled", "useNodeFeatureAPI"),
    *("deviceDiscoveryStrategy", "gfd"),
    *(
        f"plugin.{key}"
        for key in (
            *("passDeviceSpecs", "deviceListStrategy", "deviceIDStrategy", "cdiAnnotationPrefix"),
            *("nvidiaCTKPath", "containerDriverRoot", "sharedDevicesAllocationPolicy"),
        )
    ),
}


def test_every_key_is_honoured_or_warned_of() -> None:
    assert {option.key for option in OPTIONS} | set(IGNORED_KEYS) >= KEYS


EVERYTHING = """
version: v1
flags:
  migStrategy: single
  failOnInitError: false
  mpsRoot: /run/nvidia/mps
  nvidiaDriverRoot: /run/nvidia/driver
  nvidiaDevRoot: /
  gdrcopyEnabled: true
  gdsEnabled: true
  mofedEnabled: true
  useNodeFeatureAPI: false
  deviceDiscoveryStrategy: auto
  plugin:
    passDeviceSpecs: true
    deviceListStrategy: [envvar, volume-mounts]
    deviceIDStrategy: index
    cdiAnnotationPrefix: nvidia.cdi.k8s.io/
    nvidiaCTKPath: /usr/local/nvidia/toolkit/nvidia-ctk
    containerDriverRoot: /driver-root
    sharedDevicesAllocationPolicy: packed
  gfd:
    oneshot: false
    noTimestamp: false
    sleepInterval: 60s
    outputFile: /etc/kubernetes/node-feature-discovery/features.d/gfd
    machineTypeFile: /sys/class/dmi/id/product_name
resources:
  gpus: [{pattern: "*", name: gpu}]
  mig: [{pattern: "1g.5gb", name: mig-1g.5gb}]
sharing:
  timeSlicing:
    renameByDefault: false
    failRequestsGreaterThanOne: true
    resources: [{name: nvidia.com/gpu, replicas: 10}]
imex:
  channelIDs: [0]
  required: false
"""
HONOURED = Settings(
    mig_strategy=MigStrategy.SINGLE,
    fail_on_init_error=False,
    driver_root="/run/nvidia/driver",
    dev_root="/",
    gdrcopy_enabled=True,
    gds_enabled=True,
    mofed_enabled=True,
    pass_device_specs=True,
    device_list_strategy=(DeviceListStrategy.ENVVAR, DeviceListStrategy.VOLUME_MOUNTS),
    device_id_strategy=DeviceIdStrategy.INDEX,
    cdi_annotation_prefix="nvidia.cdi.k8s.io/",
    nvidia_cdi_hook_path="/usr/local/nvidia/toolkit/nvidia-ctk",
    container_driver_root="/driver-root",
    shared_devices_allocation_policy=Policy.PACKED,
    naming=Naming(
        (NamePattern("*", "nvidia.com/gpu"),), (NamePattern("1g.5gb", "nvidia.com/mig-1g.5gb"),)
    ),
    sharing=Sharing((SharedResource("nvidia.com/gpu", 10),), fail_requests_greater_than_one=True),
)


def test_a_file_with_everything(load_from: Load) -> None:
    loaded = load_from(file=EVERYTHING)
    config_file = loaded.settings.config_file
    assert loaded.settings == replace(
        HONOURED, control_socket=loaded.settings.control_socket, config_file=config_file
    )
    said = [warning.removeprefix(f"config file {config_file}: ") for warning in loaded.warnings]
    assert sorted(said) == sorted(
        [
            *(
                f"flags.{key} has no effect: {IGNORED_KEYS[key]}"
                for key in ("mpsRoot", "useNodeFeatureAPI", "deviceDiscoveryStrategy", "gfd")
            ),
            f"imex has no effect: {IGNORED_SECTIONS['imex']}",
        ]
    )


def time_slicing(*entries: str, more: str = "") -> str:
    return f"{{version: v1, sharing: {{timeSlicing: {{{more}resources: [{', '.join(entries)}]}}}}}}"


GPU = "nvidia.com/gpu"
HALF = ("0", "1:0", "GPU-b1028956-cfa2-0990-bf4a-5da9abb51763")


@pytest.mark.parametrize(
    ("file", "sharing"),
    [
        (time_slicing("{name: nvidia.com/gpu, replicas: 4}"), Sharing((SharedResource(GPU, 4),))),
        # The prefix may be left out.
        (time_slicing("{name: gpu, replicas: 4}"), Sharing((SharedResource(GPU, 4),))),
        (
            time_slicing("{name: nvidia.com/mig-1g.5gb, replicas: 2, devices: all}"),
            Sharing((SharedResource("nvidia.com/mig-1g.5gb", 2),)),
        ),
        (
            time_slicing("{name: gpu, replicas: 2, devices: 3, rename: slow}"),
            Sharing((SharedResource(GPU, 2, "nvidia.com/slow", 3),)),
        ),
        (
            time_slicing(f"{{name: gpu, replicas: 2, devices: [0, '1:0', {HALF[2]}]}}"),
            Sharing((SharedResource(GPU, 2, None, HALF),)),
        ),
        (
            time_slicing("{name: gpu, replicas: 2}", more="renameByDefault: true, "),
            Sharing((SharedResource(GPU, 2),), rename_by_default=True),
        ),
        ("{version: v1, sharing: {timeSlicing: null, mps: null}}", Sharing()),
        ("{version: v1, sharing: {timeSlicing: {}}}", Sharing()),
    ],
)
def test_time_slicing_in_all_forms(load_from: Load, file: str, sharing: Sharing) -> None:
    loaded = load_from(file=file)
    assert loaded.settings.sharing == sharing
    assert loaded.warnings == ()


#: As a template leaves them behind.
@pytest.mark.parametrize(
    "file",
    [
        "{version: v1, flags: null, resources: null, sharing: null, imex: null, health: null}",
        "{version: v1, flags: {mpsRoot: null, gfd: null, plugin: {mps: null}}}",
        "{version: v1, imex: {}, resources: {gpus: [], mig: null}}",
        "{flags: {migStrategy: mixed}}",
    ],
)
def test_what_says_nothing_is_worth_no_warning(load_from: Load, file: str) -> None:
    assert load_from(file=file).warnings == ()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "{version: v1, sharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}}",
            "sharing.mps: MPS is not supported; choose sharing.timeSlicing",
        ),
        ("{version: v2}", "version: 'v2' is not valid; choose v1"),
        # Go reads keys in any case, and leaves out what it does not know.
        ("{version: v1, flags: {migstrategy: mixed}}", "did you mean migStrategy?"),
        ("{version: v1, flags: {deviceListStrategy: envvar}}", "write flags.plugin.deviceList"),
        (time_slicing("{name: gpu, replicas: 0}"), "replicas: 0 is not valid; choose a number"),
        (time_slicing("{name: gpu, replicas: 2, devices: some}"), "choose all, a number, or a"),
        (time_slicing("{replicas: 2}"), "resources[0].name: None is not valid; choose nvidia.com/"),
        (
            "{resources: {mig: [{pattern: a, name: a}], migs: [{pattern: a, name: a}]}}",
            "resources.mig and resources.migs are one section",
        ),
        (
            "{version: v1, resources: {mig: [{pattern: 1g.5gb, name: gpu}]}}",
            "resources.mig[0].name: nvidia.com/gpu is a name of whole GPUs",
        ),
    ],
)
def test_what_is_refused_and_why(load_from: Load, file: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_from(file=file)
    assert text in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
