"""Reloads the configuration of the running daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from plugin.config.load import Loaded
from plugin.config.options import OPTIONS, written
from plugin.core.configuration import Waiting
from plugin.core.option import Change
from plugin.core.settings import Settings
from plugin.errors import ConfigUnreadable
from plugin.loops.aside import Aside

#: The largest accepted file takes a few seconds on a busy core.
SECONDS = 20.0


def take(old: Settings, new: Settings) -> tuple[Settings, tuple[Waiting, ...]]:
    """The settings that take effect, and the changes that need a restart."""
    fixed = [
        option
        for option in OPTIONS
        if option.change is Change.RESTART
        and getattr(old, option.field) != getattr(new, option.field)
    ]
    waiting = tuple(
        Waiting(
            f"flags.{option.key}" if option.key else option.flags[0],
            written(getattr(old, option.field)),
            written(getattr(new, option.field)),
        )
        for option in fixed
    )
    return replace(new, **{o.field: getattr(old, o.field) for o in fixed}), waiting


class Reader:
    """Reads in its own thread, so that the event loop keeps answering kubelet."""

    def __init__(self, read: Callable[[str], Loaded], seconds: float = SECONDS) -> None:
        self._read = read
        self._seconds = seconds
        self.aside = Aside("configuration", seconds)

    async def read(self, label: str = "") -> Loaded:
        """The configuration, where the node's label has this value. Raises :class:`ConfigError`,
        also after a time-out: the file system may hang.
        """
        if self.aside.busy:
            raise ConfigUnreadable("the configuration is still being read from the last time")
        try:
            return await self.aside.call(lambda: self._read(label))
        except TimeoutError:
            raise ConfigUnreadable(
                f"reading the configuration takes more than {self._seconds:g} seconds"
            ) from None
