"""Versions of the driver, of its library and of CUDA; they are for people only."""

from __future__ import annotations

from collections.abc import Callable

import pynvml
from msgspec import Struct

from plugin.driver.nvml import library as nvml
from plugin.driver.nvml import texts
from plugin.errors import DriverCallFailed


class Versions(Struct, frozen=True):
    """Empty and ``None`` where they are unknown."""

    driver: str
    nvml: str
    cuda: tuple[int, int] | None


def read_versions() -> Versions:
    """They hold while NVML is initialised."""
    cuda = _number(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return Versions(
        _text(pynvml.nvmlSystemGetDriverVersion),
        _text(pynvml.nvmlSystemGetNVMLVersion),
        (cuda // 1000, cuda % 1000 // 10) if cuda is not None else None,
    )


def _text(function: Callable[[], str]) -> str:
    try:
        found = texts.ask_text(function)
    except DriverCallFailed:
        return ""
    return found.value if found is not None else ""


def _number(function: Callable[[], int]) -> int | None:
    try:
        return nvml.ask(function)
    except DriverCallFailed:
        return None
