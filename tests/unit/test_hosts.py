"""Which ``Host`` headers are served."""

from __future__ import annotations

import pytest

from plugin.web.hosts import Hosts


@pytest.mark.parametrize(
    "header",
    [
        None,
        "10.1.2.3",
        "10.1.2.3:9400",
        "127.0.0.1:9400",
        "[::1]",
        "[fd00::7]:9400",
        "[fe80::1%eth0]:9400",
        "localhost",
        "LocalHost:9400",
        "node-7",
        "NODE-7.:9400",
        "gpu.example.com",
        "a.device_nodes.example.com:443",
        "a.b.device_nodes.example.com",
    ],
)
def test_names_that_belong_here(header: str | None) -> None:
    assert Hosts(["node-7", "gpu.Example.com", "*.device_nodes.example.com"]).serves(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":9400",
        "evil.example",
        "evil.example:9400",
        "localhost.evil.example",
        "10.1.2.3.evil.example",
        "node-70",
        "xnode-7",
        "nodes.example.com",
        "evilnodes.example.com",
        "gpu.example.com.evil.example",
        "node-7:9400:1",
        "node-7, evil.example",
        "node-7@evil.example",
        "[::1",
        "[evil.example]",
        "[]",
        "::1",
        "*",
        "*.device_nodes.example.com.evil",
    ],
)
def test_names_of_others(header: str) -> None:
    assert not Hosts(["node-7", "gpu.example.com", "*.device_nodes.example.com"]).serves(header)


def test_an_unknown_node_name_is_no_name() -> None:
    assert not Hosts([""]).serves("")


def test_a_star_is_every_name() -> None:
    assert Hosts(["*"]).serves("evil.example")
