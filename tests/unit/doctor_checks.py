"""What the tests of ``doctor``'s checks share."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from plugin.commands.check import Check, Outcome
from plugin.core.settings import MigStrategy, Settings

PASS, WARN, FAIL = Outcome.PASS, Outcome.WARN, Outcome.FAIL
MIXED = Settings(mig_strategy=MigStrategy.MIXED)


def named(found: Iterable[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """A socket that somebody listens on, as kubelet's."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield
