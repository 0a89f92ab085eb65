"""Whose the control socket's path is: made for one user, cleaned up after a crash, never stolen."""

from __future__ import annotations

import socket
import stat
import time
from pathlib import Path

import pytest

from plugin.control.listener import Listener
from plugin.errors import ControlError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def left_behind(path: Path) -> None:
    """What a process leaves that is killed."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.with_name(f"{path.name}.lock").touch()


def test_it_is_for_its_user_alone(path: Path) -> None:
    with Listener(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_was_there_keeps_its_mode(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)
    with Listener(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_closing_leaves_nothing(path: Path) -> None:
    Listener(path).close()
    assert list(path.parent.iterdir()) == []


def test_what_a_dead_process_left_is_replaced(path: Path) -> None:
    left_behind(path)
    with Listener(path) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.socket.listen()
        client.connect(str(path))


def test_one_that_accepts_nobody_holds_nobody_up(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as waiting:
        deaf.bind(str(path))
        deaf.listen(0)
        waiting.settimeout(0.0)
        waiting.connect(str(path))  # its queue is full now
        began = time.monotonic()
        with pytest.raises(ControlError, match="another process listens there"):
            Listener(path)
        assert time.monotonic() - began < 0.5


def test_a_second_one_takes_nothing_from_the_first(path: Path) -> None:
    with Listener(path) as first:
        with pytest.raises(ControlError, match="another daemon listens there"):
            Listener(path)
        assert first.is_ours()
    Listener(path).close()  # and is not locked out for ever


def test_a_strangers_live_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ControlError, match="another process listens there"):
            Listener(path)
    assert path.exists()


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlError, match="no socket"):
        Listener(path)
    assert path.read_text() == "precious"


def test_a_lock_file_that_leads_elsewhere_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.with_name(f"{path.name}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Listener(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_socket_that_was_taken_away_is_noticed_and_the_new_one_left(path: Path) -> None:
    first = Listener(path)
    path.unlink()
    assert not first.is_ours()
    left_behind(path)
    first.close()
    assert path.exists()


def test_a_failed_attempt_keeps_no_lock(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ControlError):
        Listener(path)
    path.unlink()
    Listener(path).close()


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        Listener(tmp_path / ("x" * 120))
