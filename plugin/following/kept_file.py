"""The last good configuration, on disk for a start at which the newest one is refused."""

from __future__ import annotations

import contextlib
import json
import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugin.config import atomic, bounded
from plugin.config.load import Source
from plugin.core.settings import Settings
from plugin.state.places import DEFAULT_LEDGER

log = logging.getLogger(__name__)

#: Beside the ledger.
NAME = "configuration.json"
_VERSION = 1
#: A character takes six in JSON at most, and a configuration has a mebibyte at most.
_MOST_BYTES = 8 * bounded.MEBIBYTE
#: Nobody else needs it, and a configuration can name what not everybody is to know.
_MODE = 0o600


class KeptFile:
    """Keeps the text as it was read, not what it means: a later version of the plugin parses it
    anew. Methods block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Source | None:
        """``None`` without one; what this plugin did not write is left alone, with a warning."""
        try:
            content = bounded.read(self.path, _MOST_BYTES, follow=False)
            return _source(json.loads(content))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning(
                "the last good configuration cannot be read",
                extra={"file": str(self.path), "reason": str(error) or repr(error)},
            )
            return None

    def write(self, source: Source) -> None:
        """Raises OSError."""
        content = json.dumps({"version": _VERSION, **source._asdict()}, indent=1).encode()
        with contextlib.suppress(OSError):
            same = bounded.read(self.path, _MOST_BYTES, follow=False) == content
            if same and stat.S_IMODE(self.path.stat().st_mode) == _MODE:
                return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(self.path)
        atomic.replace(self.path, content, _MODE)

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def kept_file(alone: Settings) -> KeptFile | None:
    """Beside the ledger as the command line names it: where a configuration that cannot be read
    wants the ledger to be, nobody knows. ``None`` where nothing outlives the process.
    """
    if alone.simulate and not alone.ledger_file:
        return None
    return KeptFile(Path(alone.ledger_file or DEFAULT_LEDGER).with_name(NAME))


def _source(found: Mapping[str, Any]) -> Source:
    if found["version"] != _VERSION:
        raise ValueError(f"its version is {found['version']!r}")
    source = Source(found["path"], found["name"], found["text"])
    if not all(isinstance(value, str) for value in source):
        raise TypeError("its values are no texts")
    return source
