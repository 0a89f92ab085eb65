"""Waiting for what nobody announces, such as another process's file or answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

#: Long enough for a loaded machine; what is waited for usually takes milliseconds.
SECONDS = 20.0

Answer = TypeVar("Answer")


async def eventually(
    question: Callable[[], Awaitable[Answer]],
    what: Callable[[], object] | str = "",
    *,
    seconds: float = SECONDS,
) -> Answer:
    """Ask until the answer is true, and return it. `what` is what the failure shows."""
    try:
        async with asyncio.timeout(seconds):
            while not (answer := await question()):  # noqa: ASYNC110 — there is no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        shown = what() if callable(what) else what
        raise AssertionError(f"not within {seconds:g} s: {shown}") from None
    return answer


async def becomes(condition: Callable[[], bool], what: Callable[[], object] | str = "") -> None:
    async def ask() -> bool:
        return condition()

    await eventually(ask, what)
