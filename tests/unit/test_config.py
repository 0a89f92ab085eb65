"""Settings: flag, then environment, then file, then default;
anything odd is refused in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plugin.config.flags import add_arguments
from plugin.config.load import Loaded, load
from plugin.config.options import IGNORED_FLAGS, IGNORED_KEYS, OPTIONS
from plugin.core.grammars import BOOLEAN, Address
from plugin.core.option import Option
from plugin.core.settings import HealthChecks, Settings, SharedResource, Sharing
from plugin.errors import ConfigError

Load = Callable[..., Loaded]
DEFAULTS = Settings()


def arguments(argv: Sequence[str], only: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, only)
    return vars(parser.parse_args(argv))


@pytest.fixture
def load_from(tmp_path: Path) -> Load:
    """``load_from(*argv, env={…}, file=document or text)``."""

    def load_from(*argv: str, env: Mapping[str, str] | None = None, file: object = None) -> Loaded:
        if file is not None:
            path = tmp_path / "config.yaml"
            path.write_text(file if isinstance(file, str) else yaml.safe_dump(file))
            argv = (*argv, f"--config-file={path}")
        return load(arguments(argv), env or {})

    return load_from


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
    "mig_strategy": words("single", "mixed", "none", "none, single, mixed"),
    "single_resource": words("gpu", "profile", "gpu", "profile, gpu"),
    "pass_device_specs": OFF,
    "device_list_strategy": Sample(
        ["volume-mounts", "envvar"],
        "envvar",
        "volume-mounts",
        (("volume-mounts", "envvar"), ("envvar",), ("volume-mounts",)),
        "cdi-cri",
        "envvar, volume-mounts",
    ),
    "device_id_strategy": words("index", "uuid", "index", "uuid, index"),
    "cuda_visible_devices": OFF,
    "allocation_policy": words("distributed", "packed", "distributed", POLICIES),
    "shared_devices_allocation_policy": words("packed", "distributed", "packed", POLICIES),
    "gdrcopy_enabled": ON,
    "gds_enabled": ON,
    "mofed_enabled": ON,
    "driver_root": path(),
    "dev_root": path(),
    "container_driver_root": path(),
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
    "log_level": words("debug", "warning", "error", "debug, info, warning, error"),
    "node_name": Sample(
        None,
        "worker-7",
        "ip-10-0-0-1.ec2.internal",
        (None, "worker-7", "ip-10-0-0-1.ec2.internal"),
        "Worker_7",
        "a-z and 0-9 with",
    ),
    "log_format": words("json", "console", "json", "json, console"),
}
#: These take any text; they have tests of their own.
TEXTS = {"simulate", "config_file", "http_tls_cert", "http_tls_key"}


def option(field: str) -> Option:
    return next(option for option in OPTIONS if option.field == field)


def test_every_option_is_put_to_the_test() -> None:
    assert SAMPLES.keys() | TEXTS == {option.field for option in OPTIONS}
    assert {option.field for option in OPTIONS} <= {field.name for field in fields(Settings)}


NAMES = [
    (field, flag, env)
    for field in SAMPLES
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
    assert type(getattr(loaded.settings, field)) is type(default)
    assert loaded.warnings == ()


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


# ---- refusals


def refusal(load_from: Load, *argv: str, **sources: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        load_from(*argv, **sources)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("field", SAMPLES)
def test_a_bad_value_is_refused_with_its_key_and_the_choices(load_from: Load, field: str) -> None:
    sample, names = SAMPLES[field], option(field)
    said = [
        (names.flags[0], refusal(load_from, f"{names.flags[-1]}={sample.bad}")),
        *((env, refusal(load_from, env={env: sample.bad})) for env in names.envs),
    ]
    if names.key:
        said.append(
            (f"flags.{names.key}", refusal(load_from, file=document(names.key, sample.bad)))
        )
    for key, message in said:
        assert key in message
        assert repr(sample.bad) in message
        assert sample.choices in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("migStrategy", 1),
        ("migStrategy", ["mixed"]),
        ("failOnInitError", 2),
        ("nvidiaDriverRoot", 5),
        ("nvidiaDriverRoot", ["/"]),
        ("plugin.deviceListStrategy", []),
        ("plugin.deviceListStrategy", ["envvar", 3]),
        ("plugin.deviceListStrategy", {"envvar": True}),
        ("plugin.rescanInterval", True),
        ("plugin.rescanInterval", "nan"),
        ("plugin.rescanInterval", 86_401),
    ],
)
def test_a_value_of_another_kind_is_refused(load_from: Load, key: str, value: object) -> None:
    assert f"flags.{key}: {value!r} is not valid; choose " in refusal(
        load_from, file=document(key, value)
    )


def shared(**entry: object) -> dict[str, Any]:
    """A file that shares one resource."""
    entry = {"name": "nvidia.com/gpu", "replicas": 2, **entry}
    return {"version": "v1", "sharing": {"timeSlicing": {"resources": [entry]}}}


SLICING = "sharing.timeSlicing"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("", ("holds no settings", "version: v1")),
        ("{}", ("holds no settings", "version: v1")),
        ("[]", ("holds no settings",)),
        ("just text", ("the whole document: 'just text'", "choose a mapping")),
        ("1: 2", ("the whole document",)),
        ("version: v2", ("version: 'v2' is not valid; choose v1",)),
        ("version: 1", ("version: 1 is not valid; choose v1",)),
        ("version: [v1", ("neither YAML nor JSON", "line 1")),
        ("version: v1\n---\nversion: v1", ("neither YAML nor JSON",)),
        ("a: !!python/object:os.system x", ("neither YAML nor JSON",)),
        ("a: !!int x", ("neither YAML nor JSON",)),
        ("a: !!bool x", ("neither YAML nor JSON",)),
        ("a: !!timestamp x", ("neither YAML nor JSON",)),
        (f"a: {'[' * 5000}", ("nested too deeply",)),
        ("version: v1\nversion: v1", ("'version' is given twice (line 2)",)),
        (
            "version: v1\nflags:\n  migStrategy: none\n  'migStrategy': mixed",
            ("'migStrategy' is given twice (line 4)",),
        ),
        (
            "version: v1\nx: {a: &a {b: 1}, c: {<<: *a, b: 2, b: 3}}",
            ("'b' is given twice (line 2)",),
        ),
        (f"a: &a [{'x,' * 999}]\nb: [{'*a,' * 99}]", ("holds too many values",)),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in pairwise("abcdefghi")),
            ("holds too many values", "alias"),
        ),
        (
            "a: &a {k: 1}\n"
            + "".join(
                f"{c}: &{c} {{<<: [{','.join(['*' + p] * 9)}]}}\n" for p, c in pairwise("abcdefghi")
            ),
            ("holds too many values",),
        ),
        ("a: &a [*a]", ("a value holds itself (line 1)",)),
        (f"version: v1{' ' * 2**20}", ("is larger than 1048576 bytes",)),
        (f"version: {'x' * 10**6}", ("version: 'xxx", "is not valid; choose v1")),
        (f"version: 0x{'9' * 10**5}", ("version: <number of 400000 bits> is not valid",)),
        (f"version: v1\n? {'x' * 10**6}\n: 1", ("xxx… is not known; the choices",)),
        (f"version: v1\nflags: {{? {'x' * 10**6} : 1}}", ("flags.xxx",)),
        (document("migStrategy", "x" * 10**6), ("migStrategy: 'xxx", "choose none, single")),
        (document("migStrategy", [["x" * 100] * 100] * 100), ("migStrategy: [['xxx",)),
        (f"a: !!bool {'x' * 10**6}", ("neither YAML nor JSON",)),
        (f"a: *{'x' * 10**6}", ("neither YAML nor JSON",)),
        ("version: v1\nflag: {}", ("flag is not known", "did you mean flags?", "flags, health")),
        ('version: v1\n"a\\nb": 1', ("a b is not known",)),
        ("version: v1\nflags: mixed", ("flags: 'mixed' is not valid", "choose a mapping")),
        ("version: v1\nflags: {1: 2}", ("flags: {1: 2} is not valid",)),
        ("version: v1\nflags: {plugin: [1]}", ("flags.plugin: [1] is not valid",)),
        (
            document("migstrategy", "mixed"),
            ("flags.migstrategy is not known", "did you mean migStrategy?"),
        ),
        (document("passDeviceSpecs", "true"), ("flags.passDeviceSpecs", "plugin.passDeviceSpecs")),
        (document("0", 1), ("flags.0 is not known; the choices are", "migStrategy")),
        (
            {"version": "v1", "sharing": {"mps": {"resources": []}}},
            ("sharing.mps", "sharing.timeSlicing"),
        ),
        (
            {"version": "v1", "sharing": {"slicing": {}}},
            ("sharing.slicing is not known", "timeSlicing"),
        ),
        (
            {"version": "v1", "sharing": {"timeSlicing": {"x": 1}}},
            (f"{SLICING}.x is not known", "renameByDefault"),
        ),
        (
            {"version": "v1", "sharing": {"timeSlicing": {"renameByDefault": "maybe"}}},
            (f"{SLICING}.renameByDefault: 'maybe'", "true or false"),
        ),
        (
            {"version": "v1", "sharing": {"timeSlicing": {"resources": "all"}}},
            (f"{SLICING}.resources: 'all'", "choose a list"),
        ),
        (
            {"version": "v1", "sharing": {"timeSlicing": {"resources": ["nvidia.com/gpu"]}}},
            (f"{SLICING}.resources[0]: 'nvidia.com/gpu' is not valid", "choose a mapping"),
        ),
        (shared(name="gpu"), (f"{SLICING}.resources[0].name: 'gpu'", "nvidia.com/<resource>")),
        (shared(name=None), ("name: None is not valid",)),
        (shared(name="nvidia.com/-gpu"), ("name: 'nvidia.com/-gpu' is not valid",)),
        (shared(rename="example.com/gpu"), ("rename: 'example.com/gpu'", "nvidia.com/<resource>")),
        (shared(replicas=0), ("replicas: 0", "a number from 1 to")),
        (shared(replicas=True), ("replicas: True", "a number from 1 to")),
        (shared(replicas="4"), ("replicas: '4'", "a number from 1 to")),
        (shared(replicas=100_000), ("replicas: 100000", "a number from 1 to")),
        (shared(devices="some"), ("devices: 'some'", "choose all, a number, or a list")),
        (shared(devices=0), ("devices: 0",)),
        (shared(devices=[]), ("devices: []",)),
        (shared(devices=True), ("devices: True",)),
        (shared(devices=[True]), ("devices: [True]",)),
        (shared(extra=1), ("resources[0].extra is not known", "replicas")),
        (
            {
                "version": "v1",
                "sharing": {
                    "timeSlicing": {"resources": [{"name": "nvidia.com/gpu", "replicas": 2}] * 2}
                },
            },
            ("resources[0] and [1] both share nvidia.com/gpu", "choose devices for each"),
        ),
    ],
)
def test_a_file_is_refused_with_the_key_and_the_choices(
    load_from: Load, file: object, said: tuple[str, ...]
) -> None:
    message = refusal(load_from, file=file)
    assert len(message) < 2000
    for part in ("config.yaml", *said):
        assert part in message


def test_a_file_that_cannot_be_read_is_refused(load_from: Load, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"version: v1 # \xff")
    for name in ("missing", "latin", "."):
        assert str(tmp_path / name) in refusal(load_from, f"--config-file={tmp_path / name}")
    assert "cannot be read" in refusal(load_from, env={"CONFIG_FILE": "/a\0b"})
    assert "cannot be read" in refusal(load_from, env={"CONFIG_FILE": "/a" * 10**6})


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "/dev/null"])
def test_what_is_no_file_is_refused_at_once(load_from: Load, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    message = refusal(load_from, f"--config-file={tmp_path / name}")
    assert message == f"config file {tmp_path / name}: cannot be read: is not a regular file"


def test_aliases_and_merged_keys_are_fine_in_small(load_from: Load) -> None:
    text = """
    version: v1
    flags:
      plugin: {<<: &base {<<: &lowest {rescanInterval: 7, escalateCount: 1}, escalateCount: 2}}
    imex: [*base, *lowest, {<<: *base, escalateCount: 3}]
    """
    settings = load_from(file=text).settings
    assert (settings.rescan_seconds, settings.escalate_count) == (7, 2)


# ---- the file


def test_json_is_read_as_well(load_from: Load) -> None:
    assert (
        load_from(file=json.dumps(document("migStrategy", "mixed"), indent=1)).settings.mig_strategy
        == "mixed"
    )


@pytest.mark.parametrize("version", ["", "version: null\n", "version: v1\n"])
def test_a_file_without_a_version_is_of_the_first(load_from: Load, version: str) -> None:
    text = f"{version}flags: {{migStrategy: single}}"
    assert load_from(file=text).settings.mig_strategy == "single"


#: A document, and where the message says that its key belongs.
@pytest.mark.parametrize(
    ("file", "key", "place"),
    [
        ({"migStrategy": "mixed"}, "migStrategy", "flags.migStrategy"),
        ({"MIG_STRATEGY": "mixed"}, "MIG_STRATEGY", "flags.migStrategy"),
        ({"plugin": {}}, "plugin", "flags.plugin"),
        ({"passDeviceSpecs": True}, "passDeviceSpecs", "flags.plugin.passDeviceSpecs"),
        ({"timeSlicing": {}}, "timeSlicing", "sharing.timeSlicing"),
        ({"migs": []}, "migs", "resources.migs"),
        (
            {"flags": {"deviceListStrategy": "envvar"}},
            "flags.deviceListStrategy",
            "flags.plugin.deviceListStrategy",
        ),
        (document("plugin.migStrategy", "mixed"), "flags.plugin.migStrategy", "flags.migStrategy"),
        (document("plugin.version", "v1"), "flags.plugin.version", "version"),
        ({"flags": {"sharing": {}}}, "flags.sharing", "sharing"),
        ({"flags": {"gfd": {}}, "mpsRoot": "/x"}, "mpsRoot", "flags.mpsRoot"),
        (
            {"sharing": {"renameByDefault": True}},
            "sharing.renameByDefault",
            "sharing.timeSlicing.renameByDefault",
        ),
        (
            {"sharing": {"timeSlicing": {"replicas": 4}}},
            "sharing.timeSlicing.replicas",
            "sharing.timeSlicing.resources[].replicas",
        ),
        (
            {"sharing": {"resources": []}},
            "sharing.resources",
            "resources or sharing.timeSlicing.resources",
        ),
    ],
)
def test_a_key_in_the_wrong_place_is_told_where_it_belongs(
    load_from: Load, file: object, key: str, place: str
) -> None:
    assert refusal(load_from, file=file).endswith(
        f"config.yaml: {key} is in the wrong place; write {place}"
    )


@pytest.mark.parametrize(
    ("key", "flag", "env"),
    [
        ("plugin.kubeletSocket", "--kubelet-socket", "KUBELET_SOCKET"),
        ("logLevel", "--log-level", "LOG_LEVEL"),
        ("plugin.nodeName", "--node-name", "NODE_NAME"),
    ],
)
def test_what_no_file_can_set_is_told_how_to_set(
    load_from: Load, key: str, flag: str, env: str
) -> None:
    message = refusal(load_from, file=document(key, "x"))
    assert message.endswith(f"flags.{key} does not belong into a file; set {flag} or {env}")


def test_what_is_null_or_empty_is_not_given(load_from: Load) -> None:
    text = (
        "{version: v1, flags: {migStrategy: null, plugin: null}, sharing: {timeSlicing: "
        "{renameByDefault: null}}}"
    )
    settings = load_from(file=text).settings
    assert settings.mig_strategy == DEFAULTS.mig_strategy
    assert settings.sharing == Sharing()


def test_sharing(load_from: Load) -> None:
    text = """
    version: v1
    sharing:
      timeSlicing:
        renameByDefault: true
        failRequestsGreaterThanOne: true
        resources:
        - {name: nvidia.com/gpu, replicas: 4}
        - {name: nvidia.com/mig-1g.5gb, replicas: 2, devices: all}
        - {name: nvidia.com/mig-2g.10gb, replicas: 3, devices: 5, rename: nvidia.com/mig-slow}
        - {name: nvidia.com/mig-3g.20gb, replicas: 2, devices: [0, 1:3, MIG-x]}
    """
    loaded = load_from(file=text)
    assert loaded.warnings == ()
    assert loaded.settings.sharing == Sharing(
        (
            SharedResource("nvidia.com/gpu", 4),
            SharedResource("nvidia.com/mig-1g.5gb", 2),
            SharedResource("nvidia.com/mig-2g.10gb", 3, rename="nvidia.com/mig-slow", devices=5),
            SharedResource("nvidia.com/mig-3g.20gb", 2, devices=("0", "1:3", "MIG-x")),
        ),
        rename_by_default=True,
        fail_requests_greater_than_one=True,
    )


def test_one_replica_is_worth_a_warning(load_from: Load) -> None:
    (warning,) = load_from(file=shared(replicas=1)).warnings
    assert "one replica shares nothing" in warning


@pytest.mark.parametrize(("flag", "why"), IGNORED_FLAGS.items())
def test_an_option_without_meaning_here_is_warned_of(load_from: Load, flag: str, why: str) -> None:
    assert load_from(f"{flag}=x").warnings == (f"{flag} has no effect: {why}",)
    name = flag.removeprefix("--").replace("-", "_").upper()
    assert load_from(env={name: "x"}).warnings == (f"{name} has no effect: {why}",)
    assert load_from(env={name: ""}).warnings == ()


@pytest.mark.parametrize(("key", "why"), IGNORED_KEYS.items())
def test_a_key_without_meaning_here_is_warned_of(load_from: Load, key: str, why: str) -> None:
    (warning,) = load_from(file=document(key, {"any": ["thing"]})).warnings
    assert f"flags.{key} has no effect: {why}" in warning


@pytest.mark.parametrize("key", ["imex", "health"])
def test_a_section_without_meaning_here_is_warned_of(load_from: Load, key: str) -> None:
    (warning,) = load_from(file={"version": "v1", key: {"x": 1}}).warnings
    assert f"{key} has no effect" in warning


# ---- --help


def test_help_groups_the_options_and_tells_every_name() -> None:
    parser = argparse.ArgumentParser(prog="x")
    add_arguments(parser)
    text = " ".join(parser.format_help().split())
    for shown in OPTIONS:
        for name in (*shown.flags, *shown.envs, shown.group, shown.key):
            assert name in text
    for flag in IGNORED_FLAGS:
        assert flag not in text


def test_a_command_can_take_a_part_of_the_options() -> None:
    assert arguments(["--simulate=x"], only=("simulate",)) == {"simulate": "x"}


# ---- properties

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.binary(max_size=4)
)
_keys = st.sampled_from(
    [
        *(key for o in OPTIONS for key in o.key.split(".")),
        *(
            "flags",
            "version",
            "sharing",
            "timeSlicing",
            "resources",
            "renameByDefault",
            "failRequestsGreaterThanOne",
        ),
        *("name", "rename", "replicas", "devices", "mps", "health", "gfd"),
    ]
)
_values = st.recursive(
    _scalars | st.sampled_from(["v1", "mixed", "all", "nvidia.com/gpu"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_keys | _scalars, inner, max_size=4)
    ),
    max_leaves=12,
)
_files = st.fixed_dictionaries(
    {"version": st.just("v1") | _values},
    optional={
        "flags": st.dictionaries(_keys | st.text(), _values, max_size=3),
        "sharing": st.fixed_dictionaries(
            {"timeSlicing": st.dictionaries(_keys, _values, max_size=3)}
        )
        | _values,
    },
)


@pytest.fixture(scope="module")
def odd_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd") / "config.yaml"


@given((_files | _values).map(lambda value: yaml.safe_dump(value, allow_unicode=True)) | st.text())
def test_no_file_raises_anything_but_one_line(odd_file: Path, text: str) -> None:
    odd_file.write_text(text, encoding="utf-8", errors="replace")
    try:
        loaded = load({"config_file": str(odd_file)}, {})
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 — most files are refused, some are not
    else:
        assert isinstance(loaded.settings, Settings)


@given(st.sampled_from(OPTIONS), st.text(), st.booleans())
def test_no_text_raises_anything_but_one_line(chosen: Option, text: str, from_flag: bool) -> None:  # noqa: FBT001
    given_here = {chosen.field: text} if from_flag else {}
    with contextlib.suppress(ConfigError):
        load(given_here, {} if from_flag else {chosen.envs[0]: text})
