"""A command line flag for each option."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from plugin.config.options import IGNORED_FLAGS, OPTIONS, written
from plugin.core.grammars import BOOLEAN


def add_arguments(parser: argparse.ArgumentParser, only: Sequence[str] = ()) -> None:
    """Add a flag for each option (or those in `only`) to `parser`, grouped for ``--help``."""
    groups: dict[str, Any] = {}
    for option in OPTIONS:
        if only and option.field not in only:
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        names = ", ".join(option.envs) + (f"; flags.{option.key}" if option.key else "")
        default = option.default_meaning or written(option.default) or "none"
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if option.grammar is BOOLEAN else {}
        groups[option.group].add_argument(
            *option.flags,
            dest=option.field,
            default=None,
            metavar=option.grammar.metavar,
            help=f"{option.meaning} (default: {default}) [{names}]",
            **alone,
        )
    for flag in () if only else IGNORED_FLAGS:
        parser.add_argument(
            flag, dest=f"ignored:{flag}", default=None, nargs="?", const="", help=argparse.SUPPRESS
        )
