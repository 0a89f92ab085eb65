"""The texts that the program's source holds, for comparing documents with it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "plugin"

_METHODS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "log": "",
}


@dataclass(frozen=True, slots=True, order=True)
class LogCall:
    """A call of a logger. ``…`` in the message stands for what is filled in; ``level`` is empty
    where it is chosen at run time.
    """

    module: str
    message: str
    level: str


@functools.cache
def log_calls() -> tuple[LogCall, ...]:
    return tuple(sorted(call for module, tree in _modules() for call in _log_calls(module, tree)))


@functools.cache
def texts() -> frozenset[str]:
    """Every string of the program but docstrings, with ``…`` for what is filled in; the simulation
    is left out, whose errors are not an administrator's.
    """
    found = set()
    for module, tree in _modules():
        if module.startswith("plugin.sim."):
            continue
        passed_over = {
            id(part)
            for node in ast.walk(tree)
            for part in (
                [node.value]
                if isinstance(node, ast.Expr)
                else node.values
                if isinstance(node, ast.JoinedStr)
                else []
            )
        }
        for node in ast.walk(tree):
            if id(node) not in passed_over and (text := _text(node)) is not None:
                found.add(text)
    return frozenset(found)


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if PACKAGE / "api" not in path.parents:
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def _log_calls(module: str, tree: ast.Module) -> Iterator[LogCall]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=method), args=arguments
            ) if method in _METHODS:
                message = _text(arguments[1 if method == "log" else 0])
                if message is None:
                    raise ValueError(f"{module}:{node.lineno}: a log message is not a literal")
                yield LogCall(module, re.sub(r"%[sr]", "…", message), _METHODS[method])


def _text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "…" for part in parts)
    return None
