"""What the demo checks and draws."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from plugin.commands.daemon import Daemon
from plugin.commands.demo_stage import Stage
from plugin.commands.pictures import draw
from plugin.sim.kubelet.kubelet import SimKubelet

from .builders import gpu, mig_device


def stage(tmp_path: Path, width: int = 400, *, terminal: bool = False) -> tuple[Stage, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, highlight=False
    )
    folder = tmp_path / "node"
    return Stage(console, SimKubelet(folder), Daemon(folder, "1xa100-40gb"), seconds=0.01), out


async def never(predicate: Callable[[], bool], seconds: float) -> None:
    assert seconds == 0.01
    if not predicate():
        raise TimeoutError


def test_a_wrong_figure_is_counted_and_says_what_it_should_be(tmp_path: Path) -> None:
    subject, out = stage(tmp_path)
    subject.expect("pods running", 3, 3)
    subject.expect("pods running", 2, 3)
    assert out.getvalue().splitlines() == [
        "  ✓ pods running: 3",
        "  ✗ pods running: 2, should be 3",
    ]
    assert subject.wrong == 1


@pytest.mark.asyncio
async def test_figures_that_do_not_come_right_in_time_are_named(tmp_path: Path) -> None:
    subject, out = stage(tmp_path)
    await subject.expect_soon(never, ("one", lambda: 1, 1))
    with pytest.raises(TimeoutError):
        await subject.expect_soon(never, ("one", lambda: 1, 1), ("two", lambda: 3, 2))
    assert out.getvalue().splitlines() == ["  ✓ one: 1", "  ✓ one: 1", "  ✗ two: 3, should be 2"]
    assert subject.wrong == 1


def test_long_lines_are_indented_on_a_terminal_and_whole_elsewhere(tmp_path: Path) -> None:
    text = "GPU 7 was reset; it has no MIG instances now"
    subject, out = stage(tmp_path, 30, terminal=True)
    subject.say(text, indent=4)
    assert out.getvalue() == "    GPU 7 was reset; it has no\n    MIG instances now\n"
    subject, out = stage(tmp_path)
    subject.say(text)
    assert out.getvalue() == f"  {text}\n"


# ---- pictures


def test_a_gpu_of_eight_slices_fits_a_terminal() -> None:
    slices = [mig_device(start=start) for start in range(7)]
    assert len(draw(gpu(0, *slices), {}).plain) == 80


@pytest.mark.parametrize(
    ("holders", "unhealthy", "leaving", "sign"),
    [
        ({}, {}, (), " "),
        ({"MIG-0-7-0": "a/b"}, {}, (), "*"),
        ({}, {}, ("MIG-0-7-0",), "-"),
        ({"MIG-0-7-0": "a/b"}, {}, ("MIG-0-7-0",), "-"),
        ({"MIG-0-7-0": "a/b"}, {"MIG-0-7-0": "XID 109"}, ("MIG-0-7-0",), "!"),
    ],
)
def test_a_device_has_one_sign(
    holders: dict[str, str], unhealthy: dict[str, str], leaving: tuple[str, ...], sign: str
) -> None:
    node = gpu(0, mig_device(), mig_device(start=4, profile="3g.20gb"))
    drawn = draw(node, holders, unhealthy, leaving).plain
    assert drawn.startswith(f" GPU 0 |{sign}1g.5gb |")
    assert "| 3g.20gb" in drawn
