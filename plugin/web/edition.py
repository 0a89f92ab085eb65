"""Entity tags without rendering the body."""

from __future__ import annotations

import secrets


class Edition:
    """The tag of one path: a new one whenever the body's source differs from last time.

    The source is compared by ``==``: it must determine the body and be immutable. Tags include the
    process, because their numbers start again with it.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(6)
        self._number = 0
        self._source: object = None

    def tag(self, source: object) -> str:
        if self._source != source:
            self._number += 1
            self._source = source
        return f'"{self._process}-{self._number}"'
