#!/usr/bin/env python3
"""Write the tables of docs/configuration.md from plugin/core/settings.py, or with --check report
whether they are current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from plugin.config.options import IGNORED_FLAGS, IGNORED_KEYS, OPTIONS, written
from plugin.core.option import Option

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/configuration.md"


def tables() -> dict[str, str]:
    """Table name → Markdown."""
    groups = [
        _group(name, list(options))
        for name, options in groupby(OPTIONS, key=lambda option: option.group)
    ]
    flags = ((_code(flag), why) for flag, why in IGNORED_FLAGS.items())
    keys = ((_code(f"flags.{key}"), why) for key, why in IGNORED_KEYS.items())
    return {
        "options": "\n\n".join(groups),
        "ignored flags": _table(("flag", "why"), flags),
        "ignored keys": _table(("key", "why"), keys),
    }


def rewritten(text: str) -> str:
    """The document with new tables; each stands between two comments that name it."""
    for name, table in tables().items():
        begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(
                f"{DOCUMENT} has no place for the table of {name}: write {begin!r} and {end!r}"
            )
        text = before + begin + table + end + after
    return text


def _group(name: str, options: Sequence[Option]) -> str:
    headings = ("flag", "variable", "key", "default", "values", "meaning", "a change takes effect")
    heading = f"### {name[0].upper()}{name[1:]}"
    return f"{heading}\n\n{_table(headings, map(_row, options))}"


def _row(option: Option) -> Sequence[str]:
    default = written(option.default)
    return (
        ", ".join(map(_code, option.flags)),
        ", ".join(map(_code, option.envs)),
        _code(f"flags.{option.key}") if option.key else "",
        option.default_meaning or (_code(default) if default else ""),
        option.grammar.choices + (", or nothing" if option.empty else ""),
        option.meaning,
        option.change,
    )


def _code(text: str) -> str:
    return f"`{text}`"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("<", r"\<") for cell in line) + " |" for line in lines
    )


def main() -> int:
    text = DOCUMENT.read_text(encoding="utf-8")
    fresh = rewritten(text)
    if "--check" in sys.argv[1:]:
        if fresh != text:
            print(
                f"{DOCUMENT} is not what plugin/core/settings.py declares; run python -m "
                "scripts.options_table"
            )
            return 1
        return 0
    DOCUMENT.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
