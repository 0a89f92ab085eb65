"""The settings of the daemon that runs here, for commands that do not share its arguments."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from plugin.config import export
from plugin.config.load import Loaded
from plugin.config.options import OPTIONS
from plugin.control.client import ask
from plugin.errors import ConfigError, ControlError, NotRunning


def as_running(loaded: Loaded, arguments: Mapping[str, Any]) -> Loaded:
    """`loaded` as far as `arguments` of this command say it, and else as the running daemon has it,
    after its own arguments and every change by SIGHUP; `loaded` itself where no daemon answers.
    """
    mine = loaded.settings
    given = [option.field for option in OPTIONS if arguments.get(option.field) is not None]
    if not mine.control_socket or "simulate" in given:  # who names a node wants that one
        return loaded
    try:
        answer = ask(mine.control_socket, "settings")
        settings = export.settings_of(answer, mine, [*given, "control_socket"])
    except NotRunning:
        return loaded
    except (ControlError, ConfigError) as error:
        print(
            f"mig-device-plugin: {error}; using this command's own settings",
            file=sys.stderr,
        )
        return loaded
    return replace(loaded, settings=settings)
