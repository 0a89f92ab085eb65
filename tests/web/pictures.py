"""Takes pictures of the status page: ``python -m tests.web.pictures FOLDER [SCENE…]``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from plugin.core.grammars import Address
from plugin.web.http.server import HttpServer
from plugin.web.routes import Site
from tests.web.browser import browser
from tests.web.scenes import SCENES

#: What a picture is called, how wide it is, and whether it is dark.
KINDS = (("light", 1100, False), ("dark", 1100, True), ("phone", 360, False))


async def take(folder: Path, names: list[str]) -> None:
    async with browser() as chromium:
        for name in names:
            server = HttpServer(Address("127.0.0.1", 0), Site(SCENES[name], hostname="gpu-node-7"))
            running = asyncio.create_task(server.run())
            await server.listening.wait()
            for kind, width, dark in KINDS:
                page = await chromium.page(
                    f"http://127.0.0.1:{server.port}/", width=width, dark=dark
                )
                await page.fit(width)
                await asyncio.to_thread(
                    (folder / f"{name}-{kind}.png").write_bytes, await page.screenshot()
                )
                await page.close()
            running.cancel()
            await asyncio.wait({running})
    sys.stderr.writelines(f"{complaint}\n" for complaint in chromium.complaints)


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]), sys.argv[2:] or list(SCENES)))
