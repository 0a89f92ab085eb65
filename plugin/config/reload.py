"""Reloads the configuration of the running daemon."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from plugin.config.load import Loaded
from plugin.config.options import OPTIONS, written
from plugin.core.option import Change
from plugin.core.settings import Settings
from plugin.errors import ConfigError

#: The largest accepted file takes a few seconds on a busy core.
SECONDS = 20.0


class Refused(NamedTuple):
    """A change that needs a restart; `option` is its key in the file."""

    option: str
    old: str
    new: str


def take(old: Settings, new: Settings) -> tuple[Settings, tuple[Refused, ...]]:
    """The settings that take effect, and the changes that need a restart."""
    fixed = [
        option
        for option in OPTIONS
        if option.change is Change.RESTART
        and getattr(old, option.field) != getattr(new, option.field)
    ]
    refused = tuple(
        Refused(
            f"flags.{option.key}" if option.key else option.flags[0],
            written(getattr(old, option.field)),
            written(getattr(new, option.field)),
        )
        for option in fixed
    )
    return replace(new, **{o.field: getattr(old, o.field) for o in fixed}), refused


class Reader:
    """Reads in its own thread, so that the event loop keeps answering kubelet."""

    def __init__(self, read: Callable[[], Loaded], seconds: float = SECONDS) -> None:
        self._read = read
        self._seconds = seconds
        self.thread: threading.Thread | None = None

    async def read(self) -> Loaded:
        """Raises :class:`ConfigError`, also after a time-out: the file system may hang."""
        if self.thread is not None and self.thread.is_alive():
            raise ConfigError("the configuration is still being read from the last time")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Loaded] = loop.create_future()

        def run() -> None:
            result, error = None, None
            try:
                result = self._read()
            except BaseException as raised:  # noqa: BLE001 — raised in the caller of read()
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, future, result, error)

        # A daemon thread, unlike asyncio's: a hanging one must not block the exit.
        self.thread = threading.Thread(target=run, name="configuration", daemon=True)
        self.thread.start()
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            raise ConfigError(
                f"reading the configuration takes more than {self._seconds:g} seconds"
            ) from None


def _settle(
    future: asyncio.Future[Loaded], result: Loaded | None, error: BaseException | None
) -> None:
    if future.done():  # timed out
        return
    if error is not None:
        future.set_exception(error)
    elif result is not None:
        future.set_result(result)
