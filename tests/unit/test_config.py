"""Settings: flag over environment over file over default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from plugin.config.load import Loaded, load
from plugin.config.options import OPTIONS
from plugin.core.grammars import BOOLEAN
from plugin.core.settings import Settings
from plugin.errors import ConfigError

from .config_samples import SAMPLES, Load, arguments, document, option

DEFAULTS = Settings()
#: These take any text; they have tests of their own.
TEXTS = {
    *("simulate", "config_file", "kubeconfig", "http_tls_cert", "http_tls_key"),
    "partition_config",
}
#: These mean something together only.
CHOOSING = {"config_dir", "config_name", "config_label", "config_default"}


def test_every_option_is_put_to_the_test() -> None:
    assert SAMPLES.keys() | TEXTS == {option.field for option in OPTIONS}
    assert {option.field for option in OPTIONS} <= {field.name for field in fields(Settings)}


NAMES = [
    (field, flag, env)
    for field in SAMPLES
    if field not in CHOOSING
    for flag in option(field).flags
    for env in option(field).envs
]


@pytest.mark.parametrize(("field", "flag", "env"), NAMES)
def test_flag_beats_environment_beats_file_beats_default(
    load_from: Load, field: str, flag: str, env: str
) -> None:
    sample, key = SAMPLES[field], option(field).key
    default = getattr(DEFAULTS, field)
    file = document(key, sample.file) if key else None
    layers = [default, *sample.arrive] if key else [default, *sample.arrive[1:]]
    assert all(below != above for below, above in pairwise(layers)), "the samples prove nothing"

    assert getattr(load_from().settings, field) == default
    if file:
        assert getattr(load_from(file=file).settings, field) == sample.arrive[0]
    assert getattr(load_from(file=file, env={env: sample.env}).settings, field) == sample.arrive[1]
    loaded = load_from(f"{flag}={sample.flag}", file=file, env={env: sample.env})
    assert getattr(loaded.settings, field) == sample.arrive[2]
    assert default is None or type(getattr(loaded.settings, field)) is type(default)
    counted = [warning.endswith("is given and counts more") for warning in loaded.warnings]
    assert counted == [True] * (bool(key) and sample.arrive[0] != sample.arrive[2])


#: Names that users of NVIDIA's plugin already have in their manifests and files.
@pytest.mark.parametrize(
    ("field", "flags", "envs", "key"),
    [
        ("mig_strategy", ["--mig-strategy"], ["MIG_STRATEGY"], "migStrategy"),
        ("fail_on_init_error", ["--fail-on-init-error"], ["FAIL_ON_INIT_ERROR"], "failOnInitError"),
        (
            "driver_root",
            ["--driver-root", "--nvidia-driver-root"],
            ["NVIDIA_DRIVER_ROOT"],
            "nvidiaDriverRoot",
        ),
        ("dev_root", ["--dev-root", "--nvidia-dev-root"], ["NVIDIA_DEV_ROOT"], "nvidiaDevRoot"),
        (
            "container_driver_root",
            ["--driver-root-ctr-path", "--container-driver-root"],
            ["DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"],
            "plugin.containerDriverRoot",
        ),
        (
            "pass_device_specs",
            ["--pass-device-specs"],
            ["PASS_DEVICE_SPECS"],
            "plugin.passDeviceSpecs",
        ),
        (
            "device_list_strategy",
            ["--device-list-strategy"],
            ["DEVICE_LIST_STRATEGY"],
            "plugin.deviceListStrategy",
        ),
        (
            "device_id_strategy",
            ["--device-id-strategy"],
            ["DEVICE_ID_STRATEGY"],
            "plugin.deviceIDStrategy",
        ),
        (
            "shared_devices_allocation_policy",
            ["--shared-devices-allocation-policy"],
            ["SHARED_DEVICES_ALLOCATION_POLICY"],
            "plugin.sharedDevicesAllocationPolicy",
        ),
        ("gdrcopy_enabled", ["--gdrcopy-enabled"], ["GDRCOPY_ENABLED"], "gdrcopyEnabled"),
        ("gds_enabled", ["--gds-enabled"], ["GDS_ENABLED"], "gdsEnabled"),
        ("mofed_enabled", ["--mofed-enabled"], ["MOFED_ENABLED"], "mofedEnabled"),
        ("kubelet_socket", ["--kubelet-socket"], ["KUBELET_SOCKET"], ""),
        ("config_file", ["--config-file"], ["CONFIG_FILE"], ""),
        ("kubeconfig", ["--kubeconfig"], ["KUBECONFIG"], ""),
        ("single_resource", ["--single-resource"], ["SINGLE_RESOURCE"], "plugin.singleResource"),
    ],
)
def test_names_are_those_that_users_have(
    field: str, flags: list[str], envs: list[str], key: str
) -> None:
    assert (list(option(field).flags), list(option(field).envs), option(field).key) == (
        flags,
        envs,
        key,
    )


def test_the_file_can_be_named_in_the_environment(tmp_path: Path) -> None:
    for name, strategy in (("a", "mixed"), ("b", "single")):
        (tmp_path / name).write_text(json.dumps(document("migStrategy", strategy)))
    env = {"CONFIG_FILE": str(tmp_path / "a")}
    assert load({}, env).settings.mig_strategy == "mixed"
    loaded = load(arguments([f"--config-file={tmp_path / 'b'}"]), env)
    assert loaded.settings.mig_strategy == "single"
    assert loaded.settings.config_file == str(tmp_path / "b")


def test_the_node_to_simulate(load_from: Load) -> None:
    env = {"SIMULATE": "p5.48xlarge"}
    assert load_from(env=env).settings.simulate == "p5.48xlarge"
    assert (
        load_from("--simulate=p4d.24xlarge:all-1g.5gb", env=env).settings.simulate
        == "p4d.24xlarge:all-1g.5gb"
    )


def test_an_empty_variable_is_as_good_as_none(load_from: Load) -> None:
    env = {name: "" for o in OPTIONS for name in o.envs if not o.empty}
    assert load_from(env=env) == Loaded(DEFAULTS)


def test_an_empty_socket_means_no_registration(load_from: Load) -> None:
    assert load_from(env={"KUBELET_SOCKET": ""}).settings.kubelet_socket == ""
    assert (
        load_from("--kubelet-socket=", env={"KUBELET_SOCKET": "/x"}).settings.kubelet_socket == ""
    )


@pytest.mark.parametrize(
    ("field", "none"),
    [
        ("kubelet_socket", ""),
        ("control_socket", ""),
        ("pod_resources_socket", ""),
        ("http_address", None),
    ],
)
def test_what_can_be_switched_off_by_an_empty_value(
    load_from: Load, field: str, none: object
) -> None:
    names = option(field)
    assert getattr(load_from(env={names.envs[0]: ""}).settings, field) == none
    assert getattr(load_from(f"{names.flags[0]}=").settings, field) == none
    if names.key:
        assert getattr(load_from(file=document(names.key, "")).settings, field) == none


def test_certificate_and_key_come_together(load_from: Load) -> None:
    both = load_from("--http-tls-cert=/c", env={"HTTP_TLS_KEY": "/k"}).settings
    assert (both.http_tls_cert, both.http_tls_key) == ("/c", "/k")
    for env in ({"HTTP_TLS_CERT": "/c"}, {"HTTP_TLS_KEY": "/k"}):
        with pytest.raises(ConfigError, match="choose both or none"):
            load_from(env=env)


@pytest.mark.parametrize(
    ("taint", "startup", "passes"),
    [
        ("a.b/c:NoSchedule", "a.b/c:NoSchedule", False),
        ("a.b/c=x:NoSchedule", "a.b/c:NoSchedule", False),
        ("a.b/c:NoSchedule", "a.b/c:NoExecute", True),
        ("a.b/c:NoSchedule", "a.b/d:NoSchedule", True),
    ],
)
def test_a_taint_is_not_both_kept_and_removed(
    load_from: Load, taint: str, startup: str, *, passes: bool
) -> None:
    given = f"--node-taint={taint}", f"--startup-taint={startup}"
    if passes:
        assert str(load_from(*given).settings.node_taint) == taint
        return
    with pytest.raises(ConfigError, match="choose another key or effect"):
        load_from(*given)


def test_labels_take_one_of_the_two_ways(load_from: Load) -> None:
    with pytest.raises(ConfigError, match="choose one of them"):
        load_from("--node-labels", env={"FEATURES_FILE": "/f"})


def test_the_first_of_two_variables_counts(load_from: Load) -> None:
    env = {"DRIVER_ROOT_CTR_PATH": "/a", "CONTAINER_DRIVER_ROOT": "/b"}
    assert load_from(env=env).settings.container_driver_root == "/a"


@pytest.mark.parametrize("field", [option.field for option in OPTIONS if option.grammar is BOOLEAN])
def test_a_switch_alone_means_true(load_from: Load, field: str) -> None:
    (env, *_), (flag, *_) = option(field).envs, option(field).flags
    assert getattr(load_from(flag, env={env: "false"}).settings, field) is True


@pytest.mark.parametrize(
    ("text", "strategies"),
    [
        ("envvar", ("envvar",)),
        ("envvar,volume-mounts", ("envvar", "volume-mounts")),
        (" volume-mounts , envvar ", ("volume-mounts", "envvar")),
        ("envvar,envvar", ("envvar",)),
        ("ENVVAR", ("envvar",)),
    ],
)
def test_list_strategies_come_by_comma(
    load_from: Load, text: str, strategies: tuple[str, ...]
) -> None:
    assert load_from(f"--device-list-strategy={text}").settings.device_list_strategy == strategies
    assert (
        load_from(file=document("plugin.deviceListStrategy", text)).settings.device_list_strategy
        == strategies
    )


@pytest.mark.parametrize(("dev", "expected"), [("", "/run/driver"), ("/host", "/host")])
def test_the_device_root_is_the_driver_root_unless_given(
    load_from: Load, dev: str, expected: str
) -> None:
    assert (
        load_from("--driver-root=/run/driver", env={"NVIDIA_DEV_ROOT": dev}).settings.host_dev_root
        == expected
    )


def test_a_plugin_for_mig_advertises_mig_devices_unless_told_otherwise(load_from: Load) -> None:
    assert load_from().settings.mig_strategy == "mixed"


@pytest.mark.parametrize(
    ("file", "env", "flags", "expected"),
    [
        (None, {"SIMULATE": "p5.48xlarge"}, (), False),
        (None, {}, ("--simulate=p5.48xlarge",), False),
        (document("plugin.passDeviceSpecs", "yes"), {"SIMULATE": "p5.48xlarge"}, (), True),
        (None, {"SIMULATE": "p5.48xlarge", "PASS_DEVICE_SPECS": "true"}, (), True),
        (None, {}, ("--simulate=p5.48xlarge", "--pass-device-specs"), True),
        (None, {"SIMULATE": ""}, (), True),
        (None, {}, (), True),
    ],
)
def test_device_nodes_of_a_simulation_are_handed_out_when_asked_for(
    load_from: Load,
    file: object,
    env: Mapping[str, str],
    flags: Sequence[str],
    expected: bool,  # noqa: FBT001 — one column of the table
) -> None:
    loaded = load_from(*flags, env=env, file=file)
    assert loaded.settings.pass_device_specs is expected
    simulated = bool(loaded.settings.simulate)
    assert bool(loaded.warnings) == (simulated and expected)


@pytest.mark.parametrize("name", ["-a", "a-", "a..b", "a.", "A", "a_b", "a b", "a" * 254, "ä"])
def test_a_name_that_no_node_can_have_is_refused(load_from: Load, name: str) -> None:
    with pytest.raises(ConfigError, match=r"NODE_NAME: .* is not valid; choose a node's name"):
        load_from(env={"NODE_NAME": name})


@pytest.mark.parametrize(
    ("lists", "warned"), [("cdi-cri", True), ("cdi-cri,envvar", False), ("envvar", False)]
)
def test_what_is_for_nvidias_runtime_has_no_effect_by_cdi_alone(
    load_from: Load,
    lists: str,
    warned: bool,  # noqa: FBT001 — a column of the table
) -> None:
    loaded = load_from("--gds-enabled", f"--device-list-strategy={lists}")
    assert [text.partition(" ")[0] for text in loaded.warnings] == ["--gds-enabled"] * warned
