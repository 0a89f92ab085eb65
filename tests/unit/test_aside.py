"""Calls that may hang, beside the event loop: what they return, and what is not waited for."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from plugin.loops.aside import Aside, briefly


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """Calls that wait for it hang until the test ends."""
    event = threading.Event()
    yield event
    event.set()


async def hang(aside: Aside, event: threading.Event) -> None:
    with pytest.raises(TimeoutError, match=r"files: no answer within 0\.01 s"):
        await aside.call(event.wait)


@pytest.mark.asyncio
async def test_a_call_returns_and_raises_what_its_function_does() -> None:
    aside = Aside("files", 5)

    def fails() -> None:
        raise TimeoutError("of the function")

    assert await aside.call(lambda: 3) == 3
    with pytest.raises(TimeoutError, match="of the function"):
        await aside.call(fails)
    assert not aside.busy


@pytest.mark.asyncio
async def test_nothing_is_called_while_a_call_hangs(hung: threading.Event) -> None:
    aside, called = Aside("files", 0.01), list[int]()
    await hang(aside, hung)
    assert aside.busy
    with pytest.raises(TimeoutError, match="the last call of files has not returned"):
        await aside.call(lambda: called.append(1))
    with pytest.raises(TimeoutError, match="no answer within"):
        await aside.call(lambda: called.append(2), waits=True)
    assert called == []


@pytest.mark.asyncio
async def test_calls_that_wait_are_made_one_after_another(hung: threading.Event) -> None:
    aside, called = Aside("files", 5), list[int]()
    first = asyncio.create_task(aside.call(hung.wait))
    await asyncio.sleep(0)
    first.cancel()  # as at the end of a loop; the call goes on
    others = [
        asyncio.create_task(aside.call(lambda n=n: called.append(n), waits=True))  # type: ignore[misc]
        for n in range(3)
    ]
    await asyncio.sleep(0)
    assert called == []
    hung.set()
    await asyncio.gather(*others)
    assert sorted(called) == [0, 1, 2]


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import asyncio, threading, contextlib; from plugin.loops.aside import Aside\n"
        "async def main():\n"
        "    with contextlib.suppress(TimeoutError):\n"
        "        await Aside('files', 0.01).call(threading.Event().wait)\n"
        "asyncio.run(main())"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


@pytest.mark.asyncio
async def test_a_call_that_was_given_up_is_not_waited_for(hung: threading.Event) -> None:
    aside = Aside("files", 0.01)
    await hang(aside, hung)
    assert aside.hangs
    with pytest.raises(TimeoutError, match="the last call of files has not returned"):
        await aside.run(int, "1")
    hung.set()
    assert aside.thread is not None
    await asyncio.to_thread(aside.thread.join)
    assert not aside.hangs
    assert await aside.run(int, "1") == 1


def test_the_start_waits_briefly(hung: threading.Event) -> None:
    assert briefly(lambda: "there", otherwise="unknown") == "there"
    assert briefly(lambda: str(hung.wait()), otherwise="unknown") == "unknown"

    def away() -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    assert briefly(away, otherwise="unknown") == "unknown"
