"""What another program changes on the Node although this one writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from plugin.core.cluster import Changes, NodeMetadata
from plugin.core.partition.rivals import foreign_writers
from plugin.loops.backoff import Backoff

#: Pauses before a value is written again. What was left alone for the last counts as no dispute.
_FIRST_SECONDS, _CAP_SECONDS, _WELL_SECONDS = 1.0, 300.0, 600.0
_NEVER: Final = object()


class Verdict(Struct, frozen=True):
    """``write`` may be written now, ``left`` are the keys that have to wait, for ``pause`` seconds.
    ``fresh`` are those that have just been found changed, which is worth a log line, and ``by``
    names who has changed them, where the Node says so.
    """

    write: Mapping[str, str | None]
    left: frozenset[str] = frozenset()
    pause: float | None = None
    fresh: tuple[str, ...] = ()
    by: str = ""


class Disputes:
    """A value that somebody else has changed is written again: at once, then after pauses that grow
    to five minutes, so that two programs do not take turns at full speed. Nothing else waits: no
    other key, and no other value of the same.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(_FIRST_SECONDS, _CAP_SECONDS, well=_WELL_SECONDS, free=1)
        self._uid = ""
        #: What is on the Node for us, since when, and what is left alone until when.
        self._settled: dict[str, str | None] = {}
        self._since = 0.0
        self._left: dict[str, tuple[str | None, float]] = {}

    def settled(self, there: Changes) -> None:
        """Everything is as it should be: `there` is what was to be there."""
        self._settled = dict(there)
        self._left.clear()

    def wrote(self, changes: Changes) -> None:
        """These are on the Node now."""
        self._settled |= changes
        self._since = asyncio.get_running_loop().time()
        for key in changes:
            self._left.pop(key, None)

    def judge(self, node: NodeMetadata, todo: Changes) -> Verdict:
        """Which of the changes may be made now."""
        if node.uid != self._uid:  # another Node has none of ours, and nobody has taken them
            self._uid = node.uid
            self.settled({})
        now = asyncio.get_running_loop().time()
        fresh = tuple(
            key for key, value in sorted(todo.items()) if self._settled.get(key, _NEVER) == value
        )
        by = ", ".join(sorted({who for key in fresh for who in foreign_writers(node, key)}))
        if fresh:
            until = now + self._backoff.failed(now - self._since)
            for key in fresh:
                del self._settled[key]  # this pause is for this change
                self._left[key] = todo[key], until
        left = {key: self._until(key, value) for key, value in todo.items()}
        left = {key: until for key, until in left.items() if until > now}
        return Verdict(
            {key: value for key, value in todo.items() if key not in left},
            frozenset(left),
            min(left.values()) - now if left else None,
            fresh,
            by,
        )

    def _until(self, key: str, wanted: str | None) -> float:
        value, until = self._left.get(key, (None, 0.0))
        return until if value == wanted else 0.0
