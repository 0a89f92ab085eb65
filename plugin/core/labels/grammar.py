"""What Kubernetes takes as a label, and NVIDIA's way to make such a value of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

#: The keys of this plugin, behind their domain: what is written is among them, and nothing else is
#: removed, whatever an annotation lists. The chart's admission policy has the same patterns.
OURS = (
    r"cuda\.[a-z.-]+",
    r"gpu\.(machine|mode|family|product|memory|count|replicas|sharing-strategy|multiprocessors)",
    r"gpu\.(compute|slices|engines)\.[a-z]+",
    r"(mig\.(capable|strategy)|mps\.capable|vgpu\.present)",
    r"mig-[0-9][A-Za-z0-9._-]*",
)
_OURS = re.compile(rf"nvidia\.com/({'|'.join(OURS)})", re.ASCII)
#: The longest value, and the longest part of a key behind the slash.
MOST_CHARACTERS = 63
_KEY = re.compile(r"nvidia\.com/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_. -]", re.ASCII)
#: A driver's version may have no third number: NVIDIA's program writes an empty value.
_MAY_BE_EMPTY = (".rev", ".revision")


def is_ours(key: str) -> bool:
    """Whether this plugin, of whatever version, may have written it."""
    return _OURS.fullmatch(key) is not None


def clean(text: str) -> str:
    """The text with what a label allows; words are joined by ``-``."""
    return "-".join(_NOT_ALLOWED.sub("", text).split())


def valid(found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What Kubernetes takes of our keys, in order; without values of which nothing is left."""
    for key, value in sorted(found.items()):
        short = clean(value)[:MOST_CHARACTERS].strip("-_.")
        if is_ours(key) and _KEY.fullmatch(key) and (short or key.endswith(_MAY_BE_EMPTY)):
            yield key, short
