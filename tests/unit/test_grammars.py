"""Grammars of the options' values: what is written is read again, anything else is refused."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.config.options import OPTIONS, parse, written
from plugin.core.grammars import (
    ANNOTATION_PREFIX,
    ANSWERED_LABEL_KEY,
    CONDITION_TYPE,
    CONFIG_NAME,
    LABEL_KEY,
    NODE_NAME,
    PATHS,
    TAINT,
    Address,
    Grammar,
    Taint,
)
from plugin.core.option import Option
from plugin.core.settings import DeviceListStrategy, HealthChecks
from plugin.errors import ConfigError


def option(field: str) -> Option:
    return next(option for option in OPTIONS if option.field == field)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (":9400", ("", 9400)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9400", ("::1", 9400)),
        ("[fe80::1%eth0]:9400", ("fe80::1%eth0", 9400)),
        ("[::ffff:10.0.0.1]:65535", ("::ffff:10.0.0.1", 65535)),
        ("localhost:80", ("localhost", 80)),
        ("node-7.example_1.:80", ("node-7.example_1.", 80)),
    ],
)
def test_addresses(text: str, where: tuple[str, int]) -> None:
    address = parse(option("http_address"), "name", text)
    assert address == where
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("9400", ":", "::1:9400", "[::1]", "a:b", ":65536", ":-1", ":+1", ": 1", ":1 ", ":٣"),
        *("[a:80]:90", "[]:90", "[::1:90", "::1]:90", "[127.0.0.1]:90", "[1:2]:90", "[[::1]]:90"),
        *("a b:80", "a,b:80", "http://a:80", "a:80:90", "ü:80", f":{'9' * 5000}"),
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"choose HOST:PORT, :PORT, \[IPV6\]:PORT, or nothing"):
        parse(option("http_address"), "name", text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("escalate_count", "9" * 5000),
        ("escalate_count", "1.5"),
        ("escalate_count", "1_0"),
        ("escalate_count", 16**5000),
        ("quiet_seconds", 16**5000),
        ("quiet_seconds", "inf"),
        ("quiet_seconds", "1m"),
        ("quiet_seconds", None),
        ("disable_healthchecks", "9" * 5000),
        ("disable_healthchecks", [16**5000]),
        ("pass_device_specs", 16**5000),
        ("driver_root", "/a\0b"),
        ("driver_root", "/\ud800"),
        ("driver_root", "x" * 10**6),
        ("kubelet_socket", "/a\0b"),
        ("device_list_strategy", ["envvar"] * 10**5 + ["cdi"]),
    ],
    ids=itertools.count(),
)
def test_values_that_trip_up_python_are_refused_in_a_short_line(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match="choose") as refused:
        parse(option(field), "name", value)
    assert len(str(refused.value)) < 600


A_PATH = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(
    "/{}".format
)
HOSTS = st.from_regex(r"[a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses(v=6).map(str)
BY_TYPE: dict[type, st.SearchStrategy[object]] = {
    bool: st.booleans(),
    int: st.integers(0, 1000),
    float: st.floats(1, 86_400),
    tuple: st.lists(st.sampled_from(DeviceListStrategy), min_size=1, unique=True).map(tuple),
    Address: st.none() | st.builds(Address, HOSTS, st.integers(0, 65535)),
    HealthChecks: st.builds(
        HealthChecks, st.booleans(), st.booleans(), st.frozensets(st.integers(0, 99999))
    ),
}
BY_GRAMMAR: dict[object, st.SearchStrategy[object]] = {
    CONDITION_TYPE: st.sampled_from(["", "MigDevicesHealthy", "example.com/gpus"]),
    TAINT: st.none()
    | st.builds(
        Taint,
        st.sampled_from(["gpu", "nvidia.com/gpu-needs-reset"]),
        st.sampled_from(["", "x.y"]),
        st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    ),
    CONFIG_NAME: st.sampled_from(["default", "a100.yaml", "_"]),
    ANSWERED_LABEL_KEY: st.sampled_from(["nvidia.com/mig.config", f"a.b/{'x' * 57}"]),
    LABEL_KEY: st.sampled_from(["nvidia.com/device-plugin.config", "config"]),
    ANNOTATION_PREFIX: st.sampled_from(["cdi.k8s.io/", "nvidia.cdi.k8s.io/", "a/"]),
    NODE_NAME: st.sampled_from(["worker-7", "0", "ip-10-0-0-1.ec2.internal"]),
    PATHS: st.lists(A_PATH.filter(lambda path: path == path.strip() and "," not in path)).map(
        tuple
    ),
}


def examples(chosen: Option) -> st.SearchStrategy[object]:
    """Values that the option may have."""
    if chosen.grammar in BY_GRAMMAR:
        return BY_GRAMMAR[chosen.grammar]
    if isinstance(chosen.default, str) and ", " in chosen.grammar.choices:
        return st.sampled_from(chosen.grammar.choices.split(", "))
    if isinstance(chosen.default, str):
        return st.sampled_from(chosen.empty) | A_PATH if chosen.empty else A_PATH
    return BY_TYPE[type(chosen.default)]


@given(st.sampled_from(OPTIONS), st.data())
def test_a_value_is_read_as_it_is_written(chosen: Option, data: st.DataObject) -> None:
    value = data.draw(examples(chosen))
    assert parse(chosen, "name", written(value)) == value


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(OPTIONS), _anything)
def test_any_value_is_taken_or_refused_and_what_is_taken_is_stable(
    chosen: Option, value: object
) -> None:
    try:
        taken = parse(chosen, "name", value)
    except ConfigError as error:
        assert len(str(error)) < 600  # noqa: PT017 — some values are refused, some are not
    else:
        assert parse(chosen, "name", written(taken)) == taken or taken == ""


@pytest.mark.parametrize("chosen", OPTIONS, ids=lambda chosen: chosen.field)
def test_a_default_is_a_value_of_its_option(chosen: Option) -> None:
    if chosen.default != "":
        assert parse(chosen, "name", written(chosen.default)) == chosen.default


@pytest.mark.parametrize(
    "value",
    [
        *(
            "gpu",
            "gpu:",
            "gpu:Never",
            ":NoSchedule",
            "a b:NoSchedule",
            "gpu=x=y:NoSchedule",
            7,
            None,
        ),
        *("a/b/c:NoExecute", "node.kubernetes.io/unreachable:NoExecute", "x.k8s.io/y:NoSchedule"),
    ],
)
def test_what_is_no_taint_of_ours_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="choose KEY:EFFECT"):
        parse(option("node_taint"), "name", value)


@pytest.mark.parametrize("grammar", [ANNOTATION_PREFIX, CONDITION_TYPE, LABEL_KEY])
@pytest.mark.parametrize(
    ("domain", "taken"),
    [
        ("a.b", True),
        ("a-1.b2", True),
        ("0", True),
        ("a" * 253, True),
        ("a" * 254, False),
        ("a..b", False),
        ("a.-b", False),
        ("a-.b", False),
        (".a", False),
        ("a.", False),
        ("A.b", False),
    ],
)
def test_a_prefix_is_a_name_of_dns(grammar: Grammar[object], domain: str, taken: bool) -> None:  # noqa: FBT001
    value = f"{domain}/" if grammar is ANNOTATION_PREFIX else f"{domain}/x"
    if taken:
        assert grammar.parse(value) == value
    else:
        with pytest.raises(ValueError, match=re.escape(value)):
            grammar.parse(value)
