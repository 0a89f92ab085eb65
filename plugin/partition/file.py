"""The node's file of MIG configurations, which may become another one while the daemon runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from plugin.config import mig_configs
from plugin.core.partition.configuration import Configuration
from plugin.errors import ConfigError
from plugin.loops.aside import Aside

log = logging.getLogger(__name__)

#: Between two looks at whether the file is another one. Kubelet brings a ConfigMap within a minute.
LOOK_SECONDS = 10.0
#: For one of them, and to read it.
READ_SECONDS = 10.0

#: What changes with the content.
_Stamp = tuple[int, ...]


class ConfigurationFile:
    """What was read last holds while the file cannot be read. Without a path, there is none."""

    def __init__(self, path: str, look_seconds: float = LOOK_SECONDS) -> None:
        self._path, self._look_seconds = path, look_seconds
        self.aside = Aside("the partition file", READ_SECONDS)
        self._stamp: _Stamp | None = None
        self._known: Mapping[str, Configuration] | None = None if path else {}
        #: Why the file cannot be used as it is now.
        self.problem = ""

    def __call__(self) -> Mapping[str, Configuration]:
        """Raises :class:`~plugin.errors.ConfigError` if the file was never readable. Blocks."""
        stamp = _stamp(self._path)
        if self._known is not None and (not self._path or stamp == self._stamp is not None):
            return self._known
        self._stamp, problem = stamp, ""
        try:
            self._known = mig_configs.read(Path(self._path))
        except ConfigError as error:
            if self._known is None:
                raise
            problem = str(error)
        if problem and problem != self.problem:
            log.error(
                "the partition file cannot be used, what it said before holds",
                extra={"reason": problem},
            )
        self.problem = problem
        return self._known

    async def run(self, changed: Callable[[], None]) -> None:
        """Call `changed` when the file may be another one, until cancelled."""
        while self._path:
            await asyncio.sleep(self._look_seconds)
            with contextlib.suppress(TimeoutError):
                if await self.aside.run(_stamp, self._path) != self._stamp:
                    changed()


def _stamp(path: str) -> _Stamp | None:
    if not path:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
