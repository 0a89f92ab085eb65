"""Entity tags that cost no body."""

from __future__ import annotations

import secrets


class Edition:
    """The tag of one path: a new one whenever what its body is made of differs from last time.

    What is compared by ``==`` must be all that the body is a function of, and must never change in
    place. Tags of one process mean nothing to the next, so its start is a part of them.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(6)
        self._number = 0
        self._made_of: object = None

    def tag(self, made_of: object) -> str:
        if self._made_of != made_of:
            self._number += 1
            self._made_of = made_of
        return f'"{self._process}-{self._number}"'
