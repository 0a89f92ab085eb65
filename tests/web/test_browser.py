"""The status page in a real browser: geometry, contrast, keyboard, screen reader, updates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from plugin.core.grammars import Address
from plugin.core.view import View
from plugin.web.http.server import HttpServer
from plugin.web.routes import Site as Routes
from tests.web.browser import CHROMIUM, Browser, Page, browser
from tests.web.scenes import SCENES, balanced, faulted

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]

#: Contrast of every visible text with what is behind it, where WCAG's level AA is not reached.
POOR_CONTRAST = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const part = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => part(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = numbers(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return [r, g, b];
      if (alpha > 0) throw new Error("a background that shines through");
    }
    throw new Error("no background");
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("script, style")) continue;
    const colors = [numbers(getComputedStyle(element).color).slice(0, 3), behind(element)];
    const [a, b] = colors.map(light).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""

#: Of each instance: GPU, UUID and where its tile lies on its rail, as shares of the rail's length.
PLACES = """
[...document.querySelectorAll(".gpu .rail .tile")].map((tile) => {
  const rail = tile.closest(".rail").getBoundingClientRect(), box = tile.getBoundingClientRect();
  return [tile.id, (box.left - rail.left) / rail.width, box.width / rail.width];
})
"""


@dataclass
class Site:
    """A running server; what it shows can be exchanged."""

    view: View = field(default_factory=balanced)

    def see(self) -> View:
        return self.view

    async def start(self) -> None:
        server = HttpServer(Address("127.0.0.1", 0), Routes(self.see, hostname="node-7"))
        self.task = asyncio.create_task(server.run())
        await server.listening.wait()
        self.url = f"http://127.0.0.1:{server.port}/"

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.start()
    yield made
    await made.stop()


async def open_page(chromium: Browser, site: Site, **options: Any) -> Page:
    chromium.complaints.clear()
    return await chromium.page(site.url, **options)


async def look_again(page: Page) -> None:
    """What a reader who comes back to the tab causes."""
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scene", SCENES)
async def test_every_node_is_readable(
    chromium: Browser, site: Site, scene: str, width: int, *, dark: bool
) -> None:
    site.view = SCENES[scene]()
    page = await open_page(chromium, site, width=width, dark=dark)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.evaluate(POOR_CONTRAST) == []
    outside = (
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && "
        "!e.closest('.at, #note, .skip')"
    )
    assert (
        await page.evaluate(
            f"{outside} && e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML)"
        )
        == []
    )
    assert chromium.complaints == []
    await page.close()


async def test_what_others_named_does_nothing(chromium: Browser, site: Site) -> None:
    site.view = SCENES["hostile"]()
    page = await open_page(chromium, site)
    assert (
        await page.evaluate("document.querySelectorAll('img, body b[onclick], body style').length")
        == 0
    )
    assert await page.evaluate("document.querySelectorAll('script').length") == 1
    await look_again(page)
    assert chromium.complaints == []
    await page.close()


@pytest.mark.parametrize("scene", ["balanced", "slices", "faulted"])
async def test_instances_lie_where_they_are(chromium: Browser, site: Site, scene: str) -> None:
    site.view = SCENES[scene]()
    page = await open_page(chromium, site)
    shown = {name: (left, width) for name, left, width in await page.evaluate(PLACES)}
    placed = 0
    for gpu in site.view.snapshot.inventory.gpus:
        for device in gpu.mig_devices:
            assert device.placement is not None
            left, width = shown[f"tile-{device.uuid}"]
            # A gap between two slices is less than a hundredth.
            assert left == pytest.approx(device.placement.start / gpu.memory_slices, abs=0.01)
            assert width == pytest.approx(device.placement.size / gpu.memory_slices, abs=0.01)
            placed += 1
    assert placed
    await page.close()


async def test_on_a_phone_slices_go_down_in_order(chromium: Browser, site: Site) -> None:
    site.view = faulted()
    page = await open_page(chromium, site, width=360)
    tops = dict(
        await page.evaluate(
            "[...document.querySelectorAll('.tile')].map(t => [t.id, "
            "t.getBoundingClientRect().top])"
        )
    )
    for gpu in site.view.snapshot.inventory.gpus:
        placed = sorted(
            (device.placement.start, tops[f"tile-{device.uuid}"])
            for device in gpu.mig_devices
            if device.placement
        )
        assert [top for _, top in placed] == sorted(top for _, top in placed)
    await page.close()


async def test_what_a_screen_reader_is_told(chromium: Browser, site: Site) -> None:
    site.view = faulted()
    page = await open_page(chromium, site)
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in await page.tree()
    ]
    names = {
        role: [name for other, name in nodes if other == role]
        for role in ("heading", "button", "list")
    }
    assert {"node-7", "Attention", "Resources", "GPUs", "GPU 0"} <= set(names["heading"])
    assert "Memory slices of GPU 0" in names["list"]
    (hit,) = [name for name in names["button"] if "notebook-ada-02" in name]
    for word in ("1g.10gb", "unhealthy", "slice 2", "research/notebook-ada-02"):
        assert word in hit.replace("research/ ", "research/")
    assert "✕" not in hit
    assert {role for role, _ in nodes} >= {
        "main",
        "banner",
        "contentinfo",
        "navigation",
        "listitem",
        "status",
    }
    await page.close()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
async def test_a_device_opens_by_keyboard(chromium: Browser, site: Site, *, script: bool) -> None:
    page = await open_page(chromium, site, script=script)
    first = site.view.snapshot.inventory.gpus[0]
    tile = (
        f"tile-{next(d.uuid for d in first.mig_devices if d.placement and d.placement.start == 0)}"
    )
    focus = "document.activeElement.id"
    for _ in range(20):
        await page.press("Tab")
        if await page.evaluate(focus) == tile:
            break
    assert await page.evaluate(focus) == tile
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await page.press("Enter")
    await page.becomes("document.querySelector(':popover-open') !== null")
    assert await page.evaluate(focus) == tile.replace("tile", "sheet") + "-close"
    opened = await page.evaluate("document.querySelector(':popover-open').textContent")
    assert tile.removeprefix("tile-") in opened
    assert await page.evaluate(POOR_CONTRAST) == []
    await page.press("Escape")
    await page.becomes("document.querySelector(':popover-open') === null")
    assert await page.evaluate(focus) == tile
    await page.close()


async def test_without_a_script_everything_is_there_to_read(chromium: Browser, site: Site) -> None:
    site.view = faulted()
    page = await open_page(chromium, site, script=False)
    text = await page.evaluate("document.body.innerText")
    assert "XID 79" in text
    assert "hits research/notebook-ada-02" in text
    assert await page.evaluate("document.querySelectorAll('.tile').length") == 27
    await page.close()


async def test_it_follows_the_node_and_leaves_the_reader_where_he_is(
    chromium: Browser, site: Site
) -> None:
    page = await open_page(chromium, site)
    device = site.view.snapshot.inventory.gpus[2].mig_devices[0]
    tile = f"document.getElementById('tile-{device.uuid}')"
    await page.evaluate(f"{tile}.focus()")
    await page.evaluate(f"{tile}.click()")
    kept = await page.evaluate(
        "[document.activeElement.id, document.querySelector(':popover-open').id]"
    )
    site.view = replace(balanced(), holders={})
    await look_again(page)
    await page.becomes("document.querySelectorAll('.tile.allocated').length === 0")
    assert (
        await page.evaluate(
            "[document.activeElement.id, document.querySelector(':popover-open').id]"
        )
        == kept
    )
    assert "32 free" in await page.evaluate("document.getElementById('note').textContent")
    assert "32 free" in await page.evaluate("document.title")
    site.view = faulted()
    await look_again(page)
    await page.becomes("document.querySelectorAll('.tile.unhealthy').length === 8")
    assert chromium.complaints == []
    await page.close()


async def test_it_says_when_the_daemon_is_gone_and_when_it_is_back(
    chromium: Browser, site: Site
) -> None:
    page = await open_page(chromium, site)
    await page.evaluate(
        "window.fetched = window.fetch; window.fetch = () => Promise.reject(new Error('gone'))"
    )
    await look_again(page)
    await page.becomes("document.getElementById('note').textContent.includes('does not answer')")
    assert (
        await page.evaluate("document.getElementById('note').getBoundingClientRect().height") > 10
    )
    assert await page.evaluate(POOR_CONTRAST) == []
    await page.evaluate("window.fetch = window.fetched")
    await look_again(page)
    await page.becomes("document.getElementById('note').textContent === ''")
    await page.close()


async def test_it_asks_only_while_it_is_looked_at(chromium: Browser, site: Site) -> None:
    page = await open_page(chromium, site)
    await page.evaluate(
        "window.waits = []; window.setTimeout = (_, wait) => window.waits.push(wait)"
    )
    await page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    )
    await look_again(page)
    await page.evaluate("Object.defineProperty(document, 'hidden', {value: false})")
    assert await page.evaluate("window.waits") == []
    await look_again(page)
    await page.becomes("window.waits.length > 0")
    assert await page.evaluate("window.waits") == [5000]
    await page.close()
