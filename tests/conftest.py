"""How a run is spread over processes, and its end."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_status = pytest.StashKey[int]()
_folder = pytest.StashKey[str]()

#: Tests with processes, sockets and clocks. The first share one worker, beside which the others
#: compute; the rest run wherever there is room, one after another.
_REAL = ("tests/integration/", "tests/integration/native/", "tests/web/")
#: What waits for other processes; the rest of the web's tests render and compare.
_RETRIED = ("tests/integration/", "tests/web/test_browser.py")
#: But for these, whose clock jumps: they take what they need of a processor.
_JUMPING = "tests/integration/cluster/"


class _Layers(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """The largest group begins first."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_JUMPING):
            return nodeid.partition("::")[0]
        folders = [folder for folder in _REAL if nodeid.startswith(folder)]
        return folders[-1] if folders else nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in real time gets a second try, which the summary names: a machine that is busy
    with something else for seconds is no fault of ours.
    """
    for item in items:
        if item.nodeid.startswith(_RETRIED):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Layers:
    """`log` is the runner's."""
    return _Layers(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Give a worker a short folder: the path of a unix socket has at most 107 characters."""
    if hasattr(config, "workerinput"):
        config.stash[_folder] = config.option.basetemp = tempfile.mkdtemp(prefix="mig-")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Threads of gRPC whose event loop is closed have kept a finished run from ending: where nobody
    watches, it ends without them.
    """
    if _folder in config.stash:
        shutil.rmtree(config.stash[_folder], ignore_errors=True)
    if os.environ.get("CI") and _status in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_status])
