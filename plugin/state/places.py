"""Where the ledger is kept, and the files beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from plugin.core.settings import Settings

DEFAULT_LEDGER = "/var/lib/mig-device-plugin/ledger.json"
_SIMULATED_LEDGER = "/run/mig-device-plugin/simulated-ledger.json"


@contextlib.contextmanager
def ledger_path(settings: Settings) -> Iterator[Path]:
    """Where the ledger is kept; a simulated node's goes with the process, for it means nothing to
    the next one.
    """
    if settings.ledger_file or not settings.simulate:
        yield Path(settings.ledger_file or DEFAULT_LEDGER)
        return
    import tempfile  # noqa: PLC0415 — with what it imports 5 ms, for a simulation only

    try:
        folder = tempfile.TemporaryDirectory(prefix="mig-device-plugin-")
    except OSError:
        # A read-only root without /tmp: saving fails there too, and says so when there is something
        # to save.
        yield Path(_SIMULATED_LEDGER)
        return
    with folder as name:
        yield Path(name) / "ledger.json"
