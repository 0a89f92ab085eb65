"""Reading the configuration again while the daemon runs, and what of it takes effect."""

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

#: A file of the greatest size that is read takes a few seconds on a busy core.
SECONDS = 20.0


class Refused(NamedTuple):
    """A change that needs a restart; `option` is its key in the file."""

    option: str
    old: str
    new: str


def take(old: Settings, new: Settings) -> tuple[Settings, tuple[Refused, ...]]:
    """The settings to go on with, and the changes that are not among them."""
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
    """Reads in a thread of its own, so that kubelet is answered meanwhile."""

    def __init__(self, read: Callable[[], Loaded], seconds: float = SECONDS) -> None:
        self._read = read
        self._seconds = seconds
        self.thread: threading.Thread | None = None

    async def read(self) -> Loaded:
        """The configuration as it is now. Raises :class:`ConfigError`, also when that takes too
        long: a file system may hang, and its thread with it.
        """
        if self.thread is not None and self.thread.is_alive():
            raise ConfigError("the configuration is still being read from the last time")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Loaded] = loop.create_future()

        def run() -> None:
            result, error = None, None
            try:
                result = self._read()
            except BaseException as raised:  # noqa: BLE001 — it belongs to whoever waits
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result, error)

        # A daemon thread, unlike asyncio's: one that hangs must not keep us from exiting.
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
    if future.done():  # given up
        return
    if error is not None:
        future.set_exception(error)
    elif result is not None:
        future.set_result(result)
