"""The configuration file: formats, sharing, and settings without effect."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plugin.config.flags import add_arguments
from plugin.config.load import load
from plugin.config.options import IGNORED_FLAGS, IGNORED_KEYS, OPTIONS
from plugin.core.option import Option
from plugin.core.settings import Settings, SharedResource, Sharing
from plugin.errors import ConfigError

from .config_samples import Load, arguments, document

DEFAULTS = Settings()


def shared(**entry: object) -> dict[str, Any]:
    """A file that shares one resource."""
    entry = {"name": "nvidia.com/gpu", "replicas": 2, **entry}
    return {"version": "v1", "sharing": {"timeSlicing": {"resources": [entry]}}}


def test_json_is_read_as_well(load_from: Load) -> None:
    assert (
        load_from(file=json.dumps(document("migStrategy", "mixed"), indent=1)).settings.mig_strategy
        == "mixed"
    )


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


def test_a_key_that_counts_less_is_warned_of(load_from: Load) -> None:
    file = document("migStrategy", "mixed")
    (warning,) = load_from(file=file, env={"MIG_STRATEGY": "single"}).warnings
    assert warning.endswith(
        "flags.migStrategy has no effect: --mig-strategy or MIG_STRATEGY is given and counts more"
    )
    assert load_from(file=file, env={"MIG_STRATEGY": "mixed"}).warnings == ()
    assert load_from("--mig-strategy=none", file=file).warnings == (warning,)


EMPTY = [option for option in OPTIONS if option.key and not option.empty]


@pytest.mark.parametrize("option", EMPTY, ids=lambda option: option.key)
def test_what_is_an_empty_text_is_not_given(load_from: Load, option: Option) -> None:
    """As in variables: templates leave it behind, and NVIDIA's plugin takes it so."""
    settings = load_from(file=document(option.key, "")).settings
    assert getattr(settings, option.field) == getattr(DEFAULTS, option.field)


def test_a_file_may_say_that_it_says_nothing(load_from: Load) -> None:
    loaded = load_from(file="{}")
    assert loaded.settings == load_from(file="version: v1").settings
    assert "holds no settings: all have their defaults" in loaded.warnings[0]


@pytest.mark.parametrize(("key", "why"), IGNORED_KEYS.items())
def test_a_key_without_meaning_here_is_warned_of(load_from: Load, key: str, why: str) -> None:
    (warning,) = load_from(file=document(key, {"any": ["thing"]})).warnings
    assert f"flags.{key} has no effect: {why}" in warning


@pytest.mark.parametrize("version", ["", "version: null\n", "version: ''\n", "version: v1\n"])
def test_a_file_without_a_version_is_of_the_first(load_from: Load, version: str) -> None:
    text = f"{version}flags: {{migStrategy: single}}"
    assert load_from(file=text).settings.mig_strategy == "single"


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
