"""An event loop whose clock jumps: whatever waits only for time need not be waited for."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from typing import Any

#: For a call aside, which takes real time.
_THREAD_SECONDS = 10.0


class Asides:
    """The calls of :class:`plugin.loops.aside.Aside` that began since this was made."""

    def __init__(self) -> None:
        self._others = set(threading.enumerate())

    @property
    def patience(self) -> float:
        """Real seconds to wait before the clock jumps."""
        working = {each for each in threading.enumerate() if each.name.startswith("aside ")}
        return _THREAD_SECONDS if working - self._others else 0.0

    def waited(self) -> None:
        """In vain: those that are under way hang, as some are meant to."""
        self._others = set(threading.enumerate())


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self._asides = Asides()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            patience = self._asides.patience
            ready = super().select(patience)
            if patience and not ready:
                self._asides.waited()
        if timeout is None and not ready:
            raise RuntimeError("everything waits, and nothing is scheduled")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(main: Coroutine[Any, Any, None]) -> None:
    """As ``asyncio.run``, with a clock that starts at 1000 s and jumps to the next thing to do."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(main)


async def settle() -> None:
    """Let every task that can run do so; no time passes."""
    for _ in range(20):
        await asyncio.sleep(0)
