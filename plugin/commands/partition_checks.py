"""Checks of the wanted MIG configuration, for ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plugin.commands.check import Check, Outcome
from plugin.config import mig_configs
from plugin.control.client import ask
from plugin.core.settings import Settings
from plugin.errors import ConfigError, ControlError

_FINE = frozenset({"idle", "success"})
_FIX = "see mig-device-plugin partition status"


def partition_checks(settings: Settings) -> Iterator[Check]:
    """Nothing where no configuration is wanted."""
    state = _state(settings)
    wanted = state is not None and state["configuration"] is not None
    if settings.by_cluster and (settings.partition_label or settings.partition_config or wanted):
        from plugin.commands.cluster_checks import rival_checks  # noqa: PLC0415 — off for most

        yield from rival_checks(settings)
    if settings.partition_file:
        try:
            found = mig_configs.read(Path(settings.partition_file))
        except ConfigError as error:
            yield Check("partition file", Outcome.FAIL, error.what, error.fix)
        else:
            yield Check("partition file", Outcome.PASS, f"{len(found)} configurations")
    if state is not None:
        yield from _progress(state)


def _state(settings: Settings) -> Mapping[str, Any] | None:
    """How far the running daemon is; ``None`` without one, or with an older one."""
    if not settings.control_socket:
        return None
    try:
        found: dict[str, Any] = ask(settings.control_socket, "partition", "status")
    except ControlError:
        return None
    return found


def _progress(state: Mapping[str, Any]) -> Iterator[Check]:
    name = state["configuration"]
    if state["state"] in _FINE:
        if name is not None:
            yield Check("partitioning", Outcome.PASS, f"{name} is applied")
        return
    bad = Outcome.FAIL if state["state"] == "failed" else Outcome.WARN
    reasons = [gpu["reason"]["text"] for gpu in state["gpus"] if gpu["reason"]]
    first = reasons[0] if reasons else (state["reason"] or {"text": ""})["text"]
    if name is None:
        yield Check("partitioning", bad, f"what is wanted is not known: {first}", _FIX)
        return
    yield Check("partitioning", bad, f"{name}: {state['state']}: {first}".rstrip(": "), _FIX)
