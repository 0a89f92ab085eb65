"""Reading the configuration again: in a thread, within a time limit; and what takes effect."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import fields, replace
from typing import Any

import pytest

from plugin.config.load import Loaded, load
from plugin.config.options import OPTIONS
from plugin.config.reload import Reader, take
from plugin.core.configuration import Waiting
from plugin.core.grammars import Address, Taint
from plugin.core.option import Change, Option
from plugin.core.settings import (
    DeviceListStrategy,
    HealthChecks,
    Settings,
    SharedResource,
    Sharing,
)
from plugin.errors import ConfigError

OLD = Settings()


OTHERS: dict[type, object] = {
    int: 1,
    float: 5.0,
    str: "/other",
    type(None): Taint("gpu", "", "NoSchedule"),
    Address: Address("::1", 1),
    tuple: (DeviceListStrategy.VOLUME_MOUNTS,),
    HealthChecks: HealthChecks(xids=True, numbers=frozenset({31})),
}


def other(option: Option) -> Any:
    """A value that the option does not have by default."""
    if isinstance(option.default, bool):
        return not option.default
    choices = option.grammar.choices.split(", ")
    if option.default in choices:
        return option.grammar.parse(next(word for word in choices if word != option.default))
    return OTHERS[type(option.default)]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.field)
def test_a_change_is_taken_or_reported(option: Option) -> None:
    new = replace(OLD, **{option.field: other(option)})
    settings, refused = take(OLD, new)
    if option.change is Change.RESTART:
        assert settings == OLD
        assert [change.option for change in refused] == [
            f"flags.{option.key}" if option.in_file else option.flags[0]
        ]
    else:
        assert settings == new != OLD
        assert refused == ()


def test_which_options_need_a_restart() -> None:
    """Everything else is looked up in the newest settings whenever it is needed."""
    assert {option.field for option in OPTIONS if option.change is Change.RESTART} == {
        *("driver_root", "dev_root", "container_driver_root", "proc_root", "sys_root", "simulate"),
        *("library_folders", "cdi_directory", "nvidia_cdi_hook_path"),
        *("partition_config", "partition_file", "partition_label"),
        *("ledger_file", "control_socket", "fail_on_init_error", "kubelet_socket"),
        *("log_level", "log_format", "config_file", "node_name", "http_token_file"),
        *("config_dir", "config_name", "config_label", "config_default"),
        *(
            "http_address",
            "http_hosts",
            "http_tls_cert",
            "http_tls_key",
            "dcgm_names",
            "pod_resources_socket",
            "node_name",
        ),
        *("features_file", "node_labels", "node_events", "node_condition", "node_taint"),
        *("startup_taint", "kubeconfig"),
    }
    assert {field.name for field in fields(Settings)} - {o.field for o in OPTIONS} == {
        "sharing",
        "naming",
    }


def test_what_the_file_cannot_set_cannot_change() -> None:
    assert {option.change for option in OPTIONS if not option.in_file} == {Change.RESTART}


def test_a_refused_change_is_told_as_the_file_says_it() -> None:
    new = replace(
        OLD,
        http_address=None,
        http_tls_cert="/c",
        dcgm_names=True,
        rescan_seconds=5,
        sharing=Sharing((SharedResource("nvidia.com/gpu", 2),)),
    )
    settings, refused = take(OLD, new)
    assert settings == replace(OLD, rescan_seconds=5, sharing=new.sharing)
    assert refused == (
        Waiting("flags.plugin.httpAddress", ":9400", ""),
        Waiting("flags.plugin.httpTLSCert", "", "/c"),
        Waiting("flags.plugin.dcgmNames", "false", "true"),
    )


@pytest.mark.asyncio
async def test_reading_is_off_the_loop() -> None:
    asked, answer, threads = threading.Event(), threading.Event(), []

    def read(_label: str) -> Loaded:
        threads.append(threading.current_thread())
        asked.set()
        assert answer.wait(20)
        return Loaded(OLD)

    reading = asyncio.create_task(Reader(read).read())
    await asyncio.to_thread(asked.wait)  # the loop turns while the reader waits
    assert not reading.done()
    answer.set()
    assert await reading == Loaded(OLD)
    assert threads != [threading.main_thread()]
    assert threads[0].daemon, "a read that hangs must not keep the process alive"


@pytest.mark.asyncio
async def test_errors_arrive() -> None:
    with pytest.raises(ConfigError, match="MIG_STRATEGY: 'mix'"):
        await Reader(lambda _: load({}, {"MIG_STRATEGY": "mix"})).read()
    with pytest.raises(ZeroDivisionError):
        await Reader(lambda _: Loaded(Settings(rescan_seconds=1 // 0))).read()


@pytest.mark.asyncio
async def test_a_read_that_hangs_is_given_up_and_not_repeated_until_it_ends() -> None:
    answer, calls = threading.Event(), []

    def read(_label: str) -> Loaded:
        calls.append(1)
        assert answer.wait(20)
        return Loaded(OLD)

    reader = Reader(read, seconds=0.01)
    with pytest.raises(ConfigError, match=r"takes more than 0\.01 seconds"):
        await reader.read()
    with pytest.raises(ConfigError, match="still being read"):
        await reader.read()
    answer.set()
    assert reader.aside.thread is not None
    await asyncio.to_thread(reader.aside.thread.join)
    assert calls == [1]
    with contextlib.suppress(ConfigError):  # a slow machine may take longer
        assert await reader.read() == Loaded(OLD)
    assert len(calls) == 2
