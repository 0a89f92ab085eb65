"""An event loop whose clock jumps: whatever waits only for time need not be waited for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
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
