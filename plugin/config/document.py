"""Reads a YAML or JSON file into plain values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from plugin.config import bounded
from plugin.core.quote import quote, shorten
from plugin.errors import ConfigError, ConfigUnreadable

#: The maximum weight of a document: one for each value and for each 64 characters; an alias counts
#: at every use. A real configuration is below a hundredth of it.
_MOST_WEIGHT = 40_000
_CHARACTERS = 64

#: Text in Kubernetes' tools, numbers and dates in PyYAML: 1:3 (a MIG device) would become 63.
_TEXT_TO_KUBERNETES = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+|0[0-7_]+)\Z")


class _Refused(yaml.YAMLError):
    """Valid YAML that a configuration must not contain."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with limits and unique keys, without sexagesimal numbers and dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 — PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TEXT_TO_KUBERNETES]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._weight = 0
        self._weights: dict[yaml.Node, int] = {}

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = self.get_node() if self.check_node() else None
        if self.check_node():
            raise _Refused("holds several documents; a file has one")
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        before, is_alias = self._weight, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None  # noqa: S101 — only the end of a document is no node
        if is_alias:
            if node not in self._weights:
                raise _Refused(f"a value holds itself{_place(node)}")
            self._weight += self._weights[node]
        else:
            characters = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
            self._weight += 1 + characters // _CHARACTERS
            self._weights[node] = self._weight - before
        if self._weight > _MOST_WEIGHT:
            raise _Refused("holds too many values; an alias counts as often as it is used")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _Refused(f"{quote(key.value)} is given twice{_place(key)}")
                seen.add((key.tag, key.value))
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))


def _place(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})" if node.start_mark else ""


def read(title: str, path: Path) -> object:
    """Read the document in the file, called `title` in messages. Raises :class:`ConfigError`."""
    return parse(title, read_text(title, path))


def read_text(title: str, path: Path) -> str:
    """Raises :class:`ConfigError`."""
    try:
        return bounded.read(path).decode()
    except OSError as error:
        raise ConfigUnreadable(f"{title}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, or a zero byte in the path
        raise ConfigError(f"{title}: cannot be read: {error}") from error


def parse(title: str, text: str) -> object:
    """Raises :class:`ConfigError`."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 — a subclass of SafeLoader
    except RecursionError as error:
        raise ConfigError(f"{title}: is nested too deeply") from error
    except _Refused as error:
        raise ConfigError(f"{title}: {error}") from error
    # PyYAML passes on whatever int(), float() and its own tables raise for a value that does not
    # fit its tag.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = shorten(" ".join(str(error).split()), 400)
        raise ConfigError(f"{title}: is neither YAML nor JSON: {reason}") from error
