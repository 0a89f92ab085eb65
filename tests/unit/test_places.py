"""Where the control socket is when nothing names it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from plugin.config.places import SYSTEM, control_socket

RUNTIME = {"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/home/u"}
IN_RUNTIME = "/run/user/1000/mig-device-plugin/control.sock"
IN_HOME = "/home/u/.local/state/mig-device-plugin/control.sock"
IN_STATE = "/var/state/mig-device-plugin/control.sock"


@pytest.mark.parametrize(
    ("environment", "simulate", "writable", "existing", "expected"),
    [
        pytest.param(RUNTIME, True, {SYSTEM, IN_RUNTIME}, set(), SYSTEM, id="root simulates"),
        pytest.param(RUNTIME, False, {SYSTEM}, {IN_RUNTIME}, SYSTEM, id="root on a node"),
        pytest.param(RUNTIME, True, {IN_RUNTIME}, set(), IN_RUNTIME, id="a user simulates"),
        pytest.param(RUNTIME, True, {IN_HOME}, set(), IN_HOME, id="a runtime folder of others"),
        pytest.param(RUNTIME, False, set(), {IN_HOME}, IN_HOME, id="a command to that one"),
        pytest.param({"HOME": "/home/u"}, True, {IN_HOME}, set(), IN_HOME, id="no runtime folder"),
        pytest.param(
            {"HOME": "/home/u", "XDG_STATE_HOME": "/var/state"},
            True,
            {IN_STATE},
            set(),
            IN_STATE,
            id="a state folder of the user's choice",
        ),
        pytest.param(RUNTIME, False, set(), {IN_RUNTIME}, IN_RUNTIME, id="a command to it"),
        pytest.param(RUNTIME, False, {IN_RUNTIME}, set(), SYSTEM, id="a command to root's daemon"),
        pytest.param(RUNTIME, False, {IN_RUNTIME}, {SYSTEM}, SYSTEM, id="on a node, without root"),
        pytest.param({"HOME": "/nonexistent"}, True, set(), set(), SYSTEM, id="nowhere to write"),
        pytest.param({}, True, set(), set(), SYSTEM, id="no folder known"),
        pytest.param({"HOME": "here"}, True, {"here"}, set(), SYSTEM, id="a relative home"),
        pytest.param({"XDG_RUNTIME_DIR": "run"}, True, set(), set(), SYSTEM, id="relative runtime"),
        pytest.param({"XDG_STATE_HOME": "state"}, True, set(), set(), SYSTEM, id="relative state"),
    ],
)
def test_the_place_of_the_control_socket(
    environment: Mapping[str, str],
    *,
    simulate: bool,
    writable: Collection[str],
    existing: Collection[str],
    expected: str,
) -> None:
    found = control_socket(
        environment,
        simulate=simulate,
        writable=writable.__contains__,
        exists=existing.__contains__,
    )
    assert found == expected
