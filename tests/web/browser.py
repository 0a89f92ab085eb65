"""A headless Chromium, driven over its DevTools pipe: Debian's package is enough, nothing is
downloaded.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any

SECONDS = 30.0
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
#: Chromium reads commands from descriptor 3 and writes to 4.
_LAUNCH = """
import os, sys
commands, answers = map(int, sys.argv[1:3])  # neither is 3 or 4: an event loop has those
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One browser with any number of pages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loads: dict[str, asyncio.Event] = {}
        #: What pages complained of: console messages and exceptions.
        self.complaints: list[str] = []

    async def listen(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in message:
                    self._answers.pop(message["id"]).set_result(message)
                elif message["method"] == "Page.loadEventFired":
                    self._loads[message["sessionId"]].set()
                # Chromium's remarks of level info, such as on an autofocus that came second, are no
                # complaints.
                elif message["method"] == "Runtime.exceptionThrown" or (
                    message["method"] == "Log.entryAdded"
                    and message["params"]["entry"]["level"] in {"warning", "error"}
                ):
                    self.complaints.append(json.dumps(message["params"]))
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(RuntimeError("Chromium ended"))

    async def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {
            "id": number,
            "method": method,
            "params": params,
            **({"sessionId": session} if session else {}),
        }
        if self._reader.at_eof():
            raise RuntimeError("Chromium ended")
        self._writer.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(SECONDS):
            response = await answer
        if "error" in response:
            raise RuntimeError(f"{method}: {response['error']}")
        result: dict[str, Any] = response["result"]
        return result

    async def page(
        self,
        url: str,
        *,
        width: int = 1200,
        height: int = 800,
        dark: bool = False,
        script: bool = True,
    ) -> Page:
        """A loaded page of this size."""
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = (
            await self.send("Target.createTarget", url="about:blank", browserContextId=context)
        )["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))[
            "sessionId"
        ]
        loaded = self._loads[session] = asyncio.Event()
        page = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log"):
            await page.send(f"{domain}.enable")
        await page.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await page.send("Emulation.setEmulatedMedia", features=[scheme, still])
        await page.send("Emulation.setScriptExecutionDisabled", value=not script)
        loaded.clear()
        await page.send("Page.navigate", url=url)
        async with asyncio.timeout(SECONDS):
            await loaded.wait()
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self.browser = browser
        self._session = session
        self._context = context

    async def close(self) -> None:
        await self.browser.send("Target.disposeBrowserContext", browserContextId=self._context)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        return await self.browser.send(method, self._session, **params)

    async def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited when it is a promise; works with scripts
        switched off.
        """
        response = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in response, response["exceptionDetails"]
        return response["result"].get("value")

    async def becomes(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        async with asyncio.timeout(SECONDS):
            while not await self.evaluate(expression):  # noqa: ASYNC110 — the page does not announce it
                await asyncio.sleep(0.02)

    async def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        text = {"text": "\r"} if key == "Enter" else {}
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def tree(self) -> list[dict[str, Any]]:
        """The accessibility tree's nodes that are not ignored."""
        nodes = (await self.send("Accessibility.getFullAXTree"))["nodes"]
        return [node for node in nodes if not node["ignored"]]

    async def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode((await self.send("Page.captureScreenshot", format="png"))["data"])

    async def fit(self, width: int) -> None:
        """Make the window as tall as the page."""
        await self.resize(width, 200)
        await self.resize(width, await self.evaluate("document.documentElement.scrollHeight"))


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A running Chromium; ended with everything it wrote."""
    assert CHROMIUM is not None
    loop = asyncio.get_running_loop()
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _LAUNCH, str(commands_out), str(answers_in), CHROMIUM, *_FLAGS),
            f"--user-data-dir={profile}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(commands_out, answers_in),
            env={**os.environ, "HOME": profile},
        )
        os.close(commands_out)
        os.close(answers_in)
        reader = asyncio.StreamReader(limit=2**26)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers_out, "rb")
        )
        writing, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(commands_in, "wb")
        )
        running = Browser(reader, asyncio.StreamWriter(writing, protocol, None, loop))
        listening = asyncio.create_task(running.listen())
        try:
            yield running
        finally:
            with contextlib.suppress(TimeoutError, RuntimeError):
                await running.send("Browser.close")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await listening
            reading.close()
            writing.close()
