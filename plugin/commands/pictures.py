"""Draws a GPU as its memory slices, with each instance at its placement."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rich.text import Text

from plugin.core.inventory.model import Gpu, MigDevice

#: Width of one memory slice with its right border: fits the longest common one-slice profile.
SLICE = 9
_BUSY, _FREE, _UNHEALTHY = "black on green3", "black on grey70", "white on red3"
#: By the sign that stands for the colour on terminals without colours.
STYLES = {
    " ": _FREE,
    "*": _BUSY,
    "!": _UNHEALTHY,
    "-": "black on light_salmon1",
    "+": "black on sky_blue1",
    "~": "black on khaki1",
}


def draw(
    gpu: Gpu,
    holders: Mapping[str, str],
    unhealthy: Mapping[str, str] | None = None,
    leaving: Collection[str] = (),
) -> Text:
    """One line of 80 columns for eight memory slices. `holders` maps UUIDs to pods; `unhealthy` and
    `leaving`, by UUID, outrank them. Each has a colour, and a sign for terminals without colours.
    """
    line = Text(f" GPU {gpu.index} |")
    slices = max(gpu.memory_slices, 1)
    if not gpu.mig_devices:
        width = 8 * SLICE - 1
        label = f"{gpu.product}, {'MIG on, empty' if gpu.mig_enabled else 'MIG off'}"
        _block(line, label, width, "*" if gpu.uuid in holders else " ")
        return line
    position = 0
    for device in sorted(gpu.mig_devices, key=_start):
        start, size = (
            (device.placement.start, device.placement.size) if device.placement else (position, 1)
        )
        _gap(line, start - position)
        sign = "*" if device.uuid in holders else " "
        if device.uuid in leaving:
            sign = "-"
        if unhealthy is not None and device.uuid in unhealthy:
            sign = "!"
        _block(line, device.profile, size * SLICE - 1, sign)
        position = start + size
    _gap(line, slices - position)
    return line


def _gap(line: Text, slices: int) -> None:
    if slices > 0:
        line.append("·" * (slices * SLICE - 1), style="dim")
        line.append("|")


def _block(line: Text, label: str, width: int, sign: str) -> None:
    line.append(f"{sign}{label}"[:width].ljust(width), style=STYLES[sign])
    line.append("|")


def _start(device: MigDevice) -> tuple[int, int]:
    return (device.placement.start if device.placement else device.gi), device.ci
