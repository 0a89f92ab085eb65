"""What the core may import; import-linter's contracts can only name what it may not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "plugin" / "core"

#: Nothing here reads a file, a clock, the environment or a socket, or starts a thread.
PURE = {
    *("__future__", "bisect", "collections", "dataclasses", "difflib", "enum", "errno"),
    *("fnmatch", "functools", "heapq", "ipaddress", "itertools", "math", "msgspec", "re"),
    *("reprlib", "types", "typing"),
}
OURS = ("plugin.core", "plugin.errors")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize(
    "path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE))
)
def test_the_core_imports_only_what_is_pure(path: Path) -> None:
    others = {name for name in imported(path) if not name.startswith(OURS)}
    assert {name.partition(".")[0] for name in others} <= PURE
