"""The texts that the program's source holds, for comparing documents with it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "plugin"

_Function = ast.FunctionDef | ast.AsyncFunctionDef
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
    return tuple(sorted(call for module, tree in _modules() for call in log_calls_of(module, tree)))


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


def log_calls_of(module: str, tree: ast.Module) -> Iterator[LogCall]:
    for function, node in _calls_of(tree, _METHODS):
        match node.func:
            case ast.Attribute(value=ast.Name(id="log" | "_log"), attr=method):
                for message in _messages(tree, function, node.args[method == "log"]):
                    yield LogCall(module, re.sub(r"%[sr]", "…", message), _METHODS[method])


def _messages(tree: ast.Module, function: _Function | None, message: ast.expr) -> Iterator[str]:
    """The message; where it is a parameter of the function, what the function is called with."""
    if (text := _text(message)) is not None:
        yield text
        return
    if function is not None and isinstance(message, ast.Name):
        place = [each.arg for each in function.args.args if each.arg != "self"].index(message.id)
        for _, call in _calls_of(tree, {function.name}):
            if (text := _text(call.args[place])) is not None:
                yield text
        return
    raise ValueError(f"line {message.lineno}: a log message is not a literal")


def _calls_of(tree: ast.AST, names: Container[str]) -> Iterator[tuple[_Function | None, ast.Call]]:
    """Calls of anything with such a name, each with the function that it stands in."""
    waiting: list[tuple[_Function | None, ast.AST]] = [(None, tree)]
    while waiting:
        function, node = waiting.pop()
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in names:
                yield function, node
        inner = node if isinstance(node, _Function) else function
        waiting += [(inner, child) for child in ast.iter_child_nodes(node)]


def _text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "…" for part in parts)
    return None
