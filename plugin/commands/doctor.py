"""``doctor``: is everything here that the plugin needs, and if not, what to do."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from rich.markup import escape

from plugin.assembly import build_driver, library_loader
from plugin.commands.cdi_checks import directory_checks, specification_checks
from plugin.commands.check import Check, Outcome
from plugin.commands.host_checks import host_checks, rival_checks
from plugin.commands.look import load, look
from plugin.commands.node_checks import node_checks
from plugin.commands.partition_checks import partition_checks
from plugin.commands.terminal import console
from plugin.config.load import Loaded
from plugin.control.client import ask
from plugin.core.advertise.advertisement import advertise
from plugin.core.settings import Settings
from plugin.errors import ControlError, DriverUnavailable

_STYLES = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


def examine(loaded: Loaded) -> int:
    """Print every check; returns the worst outcome as exit status."""
    out = console()
    worst = Outcome.PASS
    for check in checks(loaded):
        worst = max(worst, check.outcome)
        style = _STYLES[check.outcome]
        out.print(
            f"[{style}]{check.outcome.name.lower():<4}[/]  {check.name + ':':<18} "
            f"{escape(check.detail)}"
        )
        if check.fix:
            out.print(f"      {'':<18} [dim]fix:[/] {escape(check.fix)}")
    return worst


def checks(loaded: Loaded) -> Iterator[Check]:
    settings = loaded.settings
    for warning in loaded.warnings:
        yield Check("configuration", Outcome.WARN, warning, "remove the setting")
    status = _status(settings)
    if problem := status.get("configuration", {}).get("problem"):
        fix = "correct it: until then the daemon keeps the old one"
        yield Check("configuration", Outcome.FAIL, f"refused: {problem}", fix)
    if (released := status.get("released")) is not None:
        # Looking at the driver would open what the daemon has let go of.
        fix = "mig-device-plugin resume ends that"
        yield Check("driver", Outcome.WARN, released["text"], fix)
    elif (yield from _library(settings)):
        yield from _driver(settings)
    yield from host_checks(settings)
    yield from directory_checks(settings)
    yield from partition_checks(settings)


def _driver(settings: Settings) -> Iterator[Check]:
    driver, _ = build_driver(settings)
    try:
        inventory = look(driver)
    except DriverUnavailable as error:
        yield Check("driver", Outcome.FAIL, error.what, error.fix or "see the kernel log")
    else:
        yield from node_checks(inventory, settings)
        yield from specification_checks(inventory, settings)
        yield from rival_checks(tuple(advertise(inventory, settings).resources), settings)


def _status(settings: Settings) -> Mapping[str, Any]:
    """Of the running daemon; empty without one."""
    try:
        found: dict[str, Any] = ask(settings.control_socket, "status")
    except ControlError:
        return {}
    return found


def _library(settings: Settings) -> Generator[Check, None, bool]:
    """Returns whether the driver's library can be loaded."""
    if settings.simulate:
        yield Check("library", Outcome.PASS, f"not needed: simulating {settings.simulate}")
        return True
    loader = library_loader(settings)
    try:
        load(loader.load)
    except DriverUnavailable as error:
        yield Check("library", Outcome.FAIL, error.what, error.fix)
        return False
    found = str(loader.path) if loader.path else "the one on the loader's path"
    yield Check("library", Outcome.PASS, found)
    return True
