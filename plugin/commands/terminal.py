"""The console: colours and the real width on a terminal, plain unbroken lines elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console

#: Wide enough that no table row breaks in a file or a pipe.
UNBROKEN = 400


def console() -> Console:
    terminal = sys.stdout.isatty()
    return Console(
        width=None if terminal else UNBROKEN, highlight=False, emoji=False, soft_wrap=not terminal
    )
