"""An event loop with real sockets whose clock jumps when nobody has anything to do."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.unit.virtual_time import Asides

P = ParamSpec("P")

#: Real seconds after which nothing is on its way between two sockets of this process.
_SETTLED_SECONDS = 0.002
_STUCK_SECONDS = 5.0


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self._asides = Asides()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        ready = super().select(_STUCK_SECONDS if timeout is None else _SETTLED_SECONDS)
        if not ready:
            ready = self._asides.wait(super().select)
        if not ready and timeout is None:
            raise RuntimeError("everything waits, and nothing is scheduled")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an asynchronous test on such a loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
