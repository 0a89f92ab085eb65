"""The terminal: colours and its own width where there is one, plain unbroken lines where there is
none.
"""

from __future__ import annotations

import sys

from rich.console import Console

#: Wide enough that no line of a table is broken when the output goes into a file or a pipe.
UNBROKEN = 400


def console() -> Console:
    terminal = sys.stdout.isatty()
    return Console(
        width=None if terminal else UNBROKEN, highlight=False, emoji=False, soft_wrap=not terminal
    )
