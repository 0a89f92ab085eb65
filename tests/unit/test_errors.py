"""The tree of errors, and what callers may rely on."""

from __future__ import annotations

import inspect

import pytest

from plugin import errors
from plugin.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnreachable,
    ConfigError,
    ConfigUnreadable,
    ControlError,
    DeviceInUse,
    DeviceUnavailable,
    DriverCallFailed,
    DriverError,
    DriverMismatch,
    DriverOutOfReach,
    DriverReplaced,
    DriverStale,
    DriverUnavailable,
    GpuHangs,
    GpuLost,
    InsufficientResources,
    InvalidPlacement,
    InvalidRequest,
    KubeletError,
    NoAnswer,
    NoPermission,
    NoSuchInstance,
    NotRunning,
    NotSupported,
    OutcomeUnknown,
    PluginError,
    ProfilesUnknown,
    RequestError,
    ResetNeeded,
    SimulationError,
    SpecificationError,
    TargetError,
    UnknownDevice,
)


@pytest.mark.parametrize(
    ("parent", "children"),
    [
        (Exception, {PluginError}),
        (
            PluginError,
            {
                *(ConfigError, SimulationError, DriverError, RequestError, ControlError),
                *(KubeletError, SpecificationError, ClusterError),
            },
        ),
        (ConfigError, {ConfigUnreadable}),
        (DriverError, {DriverUnavailable, DriverReplaced, DriverOutOfReach, DriverCallFailed}),
        (DriverUnavailable, {DriverMismatch, DriverStale}),
        (
            DriverCallFailed,
            {
                DeviceInUse,
                GpuHangs,
                GpuLost,
                InsufficientResources,
                InvalidPlacement,
                NoPermission,
                NoSuchInstance,
                NotSupported,
                OutcomeUnknown,
                ProfilesUnknown,
                ResetNeeded,
            },
        ),
        (ControlError, {NoAnswer, NotRunning, TargetError}),
        (ClusterError, {ClusterUnreachable, ClusterRefused}),
        (RequestError, {InvalidRequest, UnknownDevice, DeviceUnavailable}),
    ],
)
def test_tree(parent: type[Exception], children: set[type[Exception]]) -> None:
    found = {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__base__ is parent
    }
    assert found == children


def test_the_tree_is_told_in_the_module() -> None:
    docstring = inspect.getdoc(errors) or ""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        assert name in docstring
        assert kind.__doc__


def test_a_failed_call_carries_its_code() -> None:
    lost = DriverCallFailed("GPU 1: it is lost", code=15, gpu_lost=True)
    assert (str(lost), lost.code, lost.gpu_lost) == ("GPU 1: it is lost", 15, True)
    assert not DriverCallFailed("x", code=999).gpu_lost


@pytest.mark.parametrize(
    "error",
    [
        PluginError("it broke", "mend it"),
        ConfigError("it\n broke", " mend\nit"),
        DriverUnavailable("it broke", "mend it"),
        DriverCallFailed("it broke", "mend it", code=999),
    ],
)
def test_an_error_carries_what_happened_and_the_fix_apart(error: PluginError) -> None:
    assert (error.what, error.fix, str(error)) == ("it broke", "mend it", "it broke; mend it")
    assert str(PluginError("it broke")) == "it broke"


def test_what_is_wrong_with_a_setting_is_one_line() -> None:
    assert str(ConfigError("key: 'a\nb\u2028c'\r\n is  not valid")) == "key: 'a b c' is not valid"
