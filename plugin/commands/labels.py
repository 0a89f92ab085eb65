"""``labels``: the node labels that the settings would give this node."""

from __future__ import annotations

import json

from plugin.assembly import build_driver
from plugin.commands.look import look
from plugin.core.advertise.advertisement import advertise
from plugin.core.labels.node import labels
from plugin.core.settings import Settings
from plugin.core.state import Snapshot
from plugin.labels.document import lines, to_text


def show(settings: Settings, output: str) -> int:
    """Print them as ``text``, ``json`` or ``features``, from a look at the driver."""
    driver, _ = build_driver(settings)
    inventory = look(driver)
    found = labels(Snapshot(0, settings, inventory, advertise(inventory, settings), geometry=1))
    values = found.values if found is not None else {}
    match output:
        case "json":
            print(json.dumps(values, indent=2))
        case "features":
            print(to_text(values), end="")
        case _:
            print(lines(values), end="")
    return 0
