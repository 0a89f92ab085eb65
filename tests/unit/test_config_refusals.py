"""Refused settings: one line with the key, the value and the choices."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plugin.errors import ConfigError

from .config_samples import SAMPLES, SLICING, Load, document, option

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


def renamed(*names: tuple[str, str | None]) -> dict[str, Any]:
    """A file that shares resources under other names."""
    entries = [{"name": name, "replicas": 2, "rename": rename} for name, rename in names]
    return {"version": "v1", "sharing": {"timeSlicing": {"resources": entries}}}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("", ("holds no settings", "version: v1")),
        ("# nothing yet", ("holds no settings", "version: v1")),
        ("[]", ("the whole document: [] is not valid", "choose a mapping")),
        ("just text", ("the whole document: 'just text'", "choose a mapping")),
        ("1: 2", ("the whole document",)),
        ("version: v2", ("version: 'v2' is not valid; choose v1",)),
        ("version: 1", ("version: 1 is not valid; choose v1",)),
        ("version: [v1", ("neither YAML nor JSON", "line 1")),
        ("version: v1\n---\nversion: v1", ("holds several documents; a file has one",)),
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
        (shared(name="a/gpu"), (f"{SLICING}.resources[0].name: 'a/gpu'", "nvidia.com/<resource>")),
        (shared(name=None), ("name: None is not valid",)),
        (shared(name="nvidia.com/-gpu"), ("name: 'nvidia.com/-gpu' is not valid",)),
        (shared(rename="example.com/gpu"), ("rename: 'example.com/gpu'", "nvidia.com/<resource>")),
        (shared(rename="mig-1g.5gb"), ("[0].rename: nvidia.com/mig-1g.5gb is a name of other",)),
        (shared(name="mig-1g.5gb", rename="mig-1g.5gb.me"), ("is a name of other devices",)),
        (shared(name="mig-1g.5gb", rename="gpu"), ("rename: nvidia.com/gpu is a name of other",)),
        (
            {
                **shared(rename="small"),
                "resources": {"migs": [{"pattern": "1g.*", "name": "small"}]},
            },
            ("rename: nvidia.com/small is a name of other devices",),
        ),
        (
            renamed(("gpu", "x"), ("mig-1g.5gb", "x")),
            ("[1].rename: nvidia.com/x is the name for shares of nvidia.com/gpu already",),
        ),
        (renamed(("one", "two"), ("two", None)), ("rename: nvidia.com/two is shared itself",)),
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
