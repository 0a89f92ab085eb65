"""Settings that travel from the daemon to its commands."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.commands.running import as_running
from plugin.config.export import document, settings_of
from plugin.config.load import Loaded
from plugin.config.options import OPTIONS
from plugin.core.advertise.naming import NamePattern, Naming
from plugin.core.settings import Policy, Settings, SharedResource, Sharing
from plugin.errors import ConfigError
from tests.unit.test_grammars import examples

SHARED = SharedResource("nvidia.com/gpu", 3, None, ("0", "0:1"))
SHARINGS = st.sampled_from(
    [
        Sharing(),
        Sharing((SHARED, replace(SHARED, devices=2, rename="nvidia.com/slow")), True, True),  # noqa: FBT003 — as declared
        Sharing((SharedResource("nvidia.com/gpu", 65_536),)),
    ]
)
NAMINGS = st.sampled_from(
    [
        Naming(),
        Naming(
            (NamePattern("*H100*", "nvidia.com/h100"),),
            (NamePattern("1g.5gb", "nvidia.com/a100-1g.5gb", "*A100*"),),
        ),
    ]
)


@st.composite
def settings(draw: Callable[..., Any]) -> Settings:
    chosen = draw(st.lists(st.sampled_from(OPTIONS), unique_by=lambda option: option.field))
    values = {option.field: draw(examples(option)) for option in chosen}
    return Settings(**values, sharing=draw(SHARINGS), naming=draw(NAMINGS))


@given(settings())
def test_what_arrives_is_what_was_sent(sent: Settings) -> None:
    assert settings_of(json.loads(json.dumps(document(sent))), Settings(), ()) == sent


def test_every_field_travels() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == {option.field for option in OPTIONS} | {"sharing", "naming"}


def test_what_this_command_was_given_is_kept() -> None:
    theirs = Settings(allocation_policy=Policy.DISTRIBUTED, kubelet_socket="/theirs")
    mine = Settings(kubelet_socket="/mine", dev_root="/unnamed")
    assert settings_of(document(theirs), mine, ["kubelet_socket"]) == Settings(
        allocation_policy=Policy.DISTRIBUTED, kubelet_socket="/mine"
    )


def test_a_newer_daemon_may_say_what_is_not_known_here() -> None:
    assert settings_of({"options": {"new": "x"}, "more": 1}, Settings(), ()) == Settings()
    with pytest.raises(ConfigError, match="the daemon's settings: mig_strategy: 'new'"):
        settings_of({"options": {"mig_strategy": "new"}}, Settings(), ())


@pytest.mark.parametrize("socket", ["", "/nothing/listens/here"])
def test_without_a_daemon_the_command_s_own_settings_hold(socket: str) -> None:
    loaded = Loaded(Settings(control_socket=socket), ("a warning",))
    assert as_running(loaded, {}) == loaded
