"""Waits for what must not be left half-done."""

from __future__ import annotations

import asyncio


async def ended(*tasks: asyncio.Task[None]) -> None:
    """Wait for the end of tasks, also when cancelled meanwhile, and even twice: whoever starts or
    stops a server must not be torn out of it, which would leave the server behind.
    """
    cancelled = False
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # whoever wants it asks; here it is only not lost
    if cancelled:
        raise asyncio.CancelledError
