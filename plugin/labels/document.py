"""The text of a features file, which is also what ``labels --output features`` prints."""

from __future__ import annotations

from collections.abc import Mapping

#: By this a file is known to be ours.
HEADER = "# Written by mig-device-plugin, which replaces every change."


def to_text(values: Mapping[str, str]) -> str:
    return "".join(f"{line}\n" for line in (HEADER, *_lines(values)))


def lines(values: Mapping[str, str]) -> str:
    """``key=value`` lines alone."""
    return "".join(f"{line}\n" for line in _lines(values))


def _lines(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(values.items())]


def from_text(text: str) -> dict[str, str]:
    """The labels in a file of ours; empty for any other."""
    if not is_ours(text):
        return {}
    told = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, separator, value in told if separator}


def is_ours(text: str) -> bool:
    return text.startswith(f"{HEADER}\n")
