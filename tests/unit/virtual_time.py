"""An event loop whose clock jumps: whatever waits only for time need not be waited for."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

_Ready = tuple[selectors.SelectorKey, int]

#: For a call aside, which takes real time.
_THREAD_SECONDS = 10.0


class Asides:
    """The calls of :class:`plugin.loops.aside.Aside` that began since this was made."""

    def __init__(self) -> None:
        self._others = set(threading.enumerate())

    def wait(self, select: Callable[[float], list[_Ready]]) -> list[_Ready]:
        """What is ready while they are under way. One that takes long hangs, as some are meant to:
        the clock jumps then.
        """
        until = time.monotonic() + _THREAD_SECONDS
        ready = select(0)
        while not ready and self._working():
            if time.monotonic() > until:
                self._others = set(threading.enumerate())
            ready = select(0.002)
        return ready

    def _working(self) -> bool:
        return any(
            each.name.startswith("aside ") and each not in self._others
            for each in threading.enumerate()
        )


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self._asides = Asides()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            ready = self._asides.wait(super().select)
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
