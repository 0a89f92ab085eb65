"""Grammars of option values.

A grammar is a pure function from a string, or a plain value of a configuration file, to the value
that the program uses. It raises ValueError for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound=str)

_TRUE = frozenset({"true", "1", "yes", "on", "t"})
_FALSE = frozenset({"false", "0", "no", "off", "f"})
_DIGITS = re.compile(r"[0-9]{1,9}")
DAY = 86_400


class Grammar(NamedTuple, Generic[T_co]):
    """``choices`` describes the values that `parse` accepts, for messages and documents."""

    parse: Callable[[object], T_co]
    choices: str
    metavar: str = "VALUE"


def _word(value: object) -> str:
    return str(value).strip().lower()


def items(value: object) -> list[str]:
    """The items of a list or of a comma-separated string, in lower case."""
    given = value if isinstance(value, list | tuple) else str(value).split(",")
    return [_word(item) for item in given]


def _boolean(value: object) -> bool:
    word = _word(value)
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(value)
    value.encode(errors="surrogateescape")  # raises ValueError for a string that cannot name a file
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 — grammars raise ValueError only
    return value


def _paths(value: object) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError(value)  # noqa: TRY004 — grammars raise ValueError only
    found = [_path(item.strip() if isinstance(item, str) else item) for item in given if item != ""]
    if any("," in path for path in found):
        raise ValueError(value)
    return tuple(found)


BOOLEAN = Grammar(_boolean, "true or false", "BOOL")
PATH = Grammar(_path, "an absolute path", "PATH")
PATHS = Grammar(_paths, "absolute paths, separated by commas", "PATH,…")
TEXT = Grammar(_text, "text")


def choice(choices: Iterable[S]) -> Grammar[S]:
    """One item of an enumeration or a tuple."""
    by_word = {str(item): item for item in choices}

    def parse(value: object) -> S:
        word = _word(value)
        if word not in by_word:
            raise ValueError(word)
        return by_word[word]

    return Grammar(parse, ", ".join(by_word))


def several(choices: Iterable[S]) -> Grammar[tuple[S, ...]]:
    """One or more items, without duplicates."""
    one = choice(choices)

    def parse(value: object) -> tuple[S, ...]:
        chosen = tuple(dict.fromkeys(map(one.parse, items(value))))
        if not chosen:
            raise ValueError(value)
        return chosen

    return Grammar(parse, f"one or more of {one.choices}, separated by commas")


def seconds(least: float, most: float = DAY) -> Grammar[float]:
    """A duration: ``7.5`` or ``7.5s``."""

    def parse(value: object) -> float:
        number = float(_word(value).removesuffix("s"))
        if not least <= number <= most:
            raise ValueError(number)
        return number

    return Grammar(parse, f"seconds from {least:g} to {most:.0f}", "SECONDS")


def count(least: int, most: int) -> Grammar[int]:
    def parse(value: object) -> int:
        word = _word(value)
        if not _DIGITS.fullmatch(word) or not least <= int(word) <= most:
            raise ValueError(word)
        return int(word)

    return Grammar(parse, f"a number from {least} to {most}", "COUNT")


class Address(NamedTuple):
    """A listen address; an empty host means all addresses, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


#: A host name, ``*.DOMAIN`` or ``*``.
_HOST_NAME = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
#: A name or IPv4 address, or an IPv6 address in brackets.
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([\w.-]*)):([0-9]{1,5})", re.ASCII)


def _address(value: object) -> Address:
    match = _ADDRESS.fullmatch(str(value))
    if match is None or int(match[3]) > 65535:  # noqa: PLR2004 — the highest port of TCP
        raise ValueError(value)
    if match[1] is not None:
        from ipaddress import IPv6Address  # noqa: PLC0415 — 5 ms that few addresses need

        IPv6Address(match[1])
    return Address(match[1] or match[2], int(match[3]))


#: As Kubernetes wants the names of its nodes (RFC 1123).
_NODE_NAME = re.compile(
    r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII
)
_NODE_NAME_CHARACTERS = 253


def _node_name(value: object) -> str:
    if (
        not isinstance(value, str)
        or len(value) > _NODE_NAME_CHARACTERS
        or not _NODE_NAME.fullmatch(value)
    ):
        raise ValueError(value)
    return value


def _host_names(value: object) -> tuple[str, ...]:
    names = tuple(filter(None, items(value)))
    if not all(map(_HOST_NAME.fullmatch, names)):
        raise ValueError(value)
    return names


#: Of an annotation's key; what follows it is ours.
#: A DNS name and a slash, as Kubernetes wants it.
_DNS_PREFIX = (
    r"(?=[^/]{1,253}/)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*/"
)
_PREFIX = re.compile(_DNS_PREFIX, re.ASCII)


def _annotation_prefix(value: object) -> str:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise ValueError(value)
    return value


#: A name with a DNS prefix that may be left out, as Kubernetes writes conditions and taints.
_QUALIFIED = rf"(?:{_DNS_PREFIX})?[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
_CONDITION_TYPE = re.compile(_QUALIFIED, re.ASCII)
_TAINT = re.compile(
    rf"({_QUALIFIED})(?:=([A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?))?:([A-Za-z]+)",
    re.ASCII,
)
#: Conditions that kubelet and the node controller keep.
_KUBERNETES_CONDITIONS = frozenset(
    {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"}
)
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
#: Domains whose taints are Kubernetes' own.
_KUBERNETES_DOMAINS = ("kubernetes.io", "k8s.io")


class Taint(NamedTuple):
    """A taint of a node; ``value`` may be empty."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        value = f"={self.value}" if self.value else ""
        return f"{self.key}{value}:{self.effect}"


def _condition_type(value: object) -> str:
    if (
        not isinstance(value, str)
        or not _CONDITION_TYPE.fullmatch(value)
        or value in _KUBERNETES_CONDITIONS
    ):
        raise ValueError(value)
    return value


ANNOTATION_PREFIX = Grammar(_annotation_prefix, "a DNS name and a slash: cdi.k8s.io/", "PREFIX")


def _taint(value: object) -> Taint:
    match = _TAINT.fullmatch(str(value))
    if match is None or match[3] not in _EFFECTS:
        raise ValueError(value)
    domain = match[1].rpartition("/")[0]
    if domain.endswith(_KUBERNETES_DOMAINS):
        raise ValueError(value)
    return Taint(match[1], match[2] or "", match[3])


#: A key of a ConfigMap, which is a file of its volume; those that begin with a dot are kubelet's.
_CONFIG_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}", re.ASCII)


def _config_name(value: object) -> str:
    if not isinstance(value, str) or not _CONFIG_NAME.fullmatch(value):
        raise ValueError(value)
    return value


_MOST_ANSWERED_NAME = 57


def _label_key(value: object) -> str:
    if not isinstance(value, str) or not _CONDITION_TYPE.fullmatch(value):
        raise ValueError(value)
    return value


def _answered_label_key(value: object) -> str:
    key = _label_key(value)
    # Of a label's name Kubernetes takes 63 characters, and six are ".state".
    if len(key.rpartition("/")[2]) > _MOST_ANSWERED_NAME:
        raise ValueError(value)
    return key


CONFIG_NAME = Grammar(
    _config_name,
    "a file's name of A-Z, a-z, 0-9, '-', '_' and '.' that does not begin with '.'",
    "NAME",
)
LABEL_KEY = Grammar(_label_key, "a label's key, such as nvidia.com/device-plugin.config", "KEY")
ANSWERED_LABEL_KEY = Grammar(
    _answered_label_key,
    "a label's key, such as nvidia.com/mig.config, with at most 57 characters after the /",
    "KEY",
)
CONDITION_TYPE = Grammar(
    _condition_type,
    "a condition's type, such as MigDevicesHealthy, that is none of Kubernetes' own",
    "TYPE",
)
TAINT = Grammar(
    _taint,
    "KEY:EFFECT or KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute, and a key that "
    "is none of Kubernetes' own",
    "KEY:EFFECT",
)
NODE_NAME = Grammar(
    _node_name,
    "a node's name: a-z and 0-9 with '-' and '.' between them (RFC 1123)",
    "NAME",
)
HOST_NAMES = Grammar(_host_names, "host names or *.DOMAIN, separated by commas; * for all")
ADDRESS = Grammar(_address, "HOST:PORT, :PORT, [IPV6]:PORT", "HOST:PORT")
