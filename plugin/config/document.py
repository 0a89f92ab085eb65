"""Reading a file of YAML or JSON into plain values."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from plugin.errors import ConfigError

#: Kubernetes' tools take these for text, PyYAML for numbers and dates: 1:3 (a MIG device) would
#: become 63.
_TEXT_TO_KUBERNETES = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+|0[0-7_]+)\Z")


class _Loader(yaml.SafeLoader):
    """SafeLoader without sexagesimal numbers and dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 — PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TEXT_TO_KUBERNETES]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))


def read(what: str, path: Path) -> object:
    """The document in the file; `what` it is goes into messages. Raises :class:`ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a zero byte in the path
        raise ConfigError(f"{what}: cannot be read: {error}") from error
    try:
        return yaml.load(text, _Loader)  # noqa: S506 — a subclass of SafeLoader
    except RecursionError as error:
        raise ConfigError(f"{what}: is nested too deeply") from error
    # PyYAML lets out what int(), float() and its tables of words raise for a value that a tag does
    # not fit.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{what}: is neither YAML nor JSON: {error}") from error
