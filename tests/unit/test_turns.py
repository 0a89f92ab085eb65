"""A command that changes GPUs and the daemon keep out of each other's way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from plugin.errors import ControlError
from plugin.state.ledger_file import LedgerFile
from plugin.state.turns import LOCK, command_runs, without_daemon


def test_a_daemon_that_was_never_asked_to_save_anything_is_seen(tmp_path: Path) -> None:
    ledger = tmp_path / "state" / "ledger.json"
    daemon = LedgerFile(ledger)
    daemon.load()
    for socket, where in (("", "cannot be asked"), ("/x.sock", "does not listen on /x.sock")):
        with pytest.raises(ControlError, match=where), without_daemon(ledger, socket):
            pytest.fail("beside a daemon")
        assert not command_runs(ledger)
    daemon.close()
    with without_daemon(ledger, ""):
        assert command_runs(ledger)
    assert list(ledger.parent.iterdir()) == []


def test_one_command_at_a_time(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    with without_daemon(ledger, ""):
        with (
            pytest.raises(ControlError, match="another partition apply"),
            without_daemon(ledger, ""),
        ):
            pytest.fail("beside another command")
        assert command_runs(ledger)
    assert not command_runs(ledger)


def test_a_lock_that_a_killed_process_left_is_nobodys(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    (tmp_path / LOCK).touch()
    (tmp_path / "ledger.json.lock").touch()
    assert not command_runs(ledger)
    with without_daemon(ledger, ""):
        assert command_runs(ledger)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOTCONN])
def test_a_file_system_that_is_away_does_not_say_that_no_command_runs(
    tmp_path: Path, number: int
) -> None:
    def away(path: Path) -> bool:
        raise OSError(number, "away", str(path))

    with pytest.raises(TimeoutError):
        command_runs(tmp_path / "ledger.json", away)


def test_nothing_is_changed_while_it_is_not_known_whether_a_daemon_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = tmp_path / "file" / "ledger.json"
    with pytest.raises(ControlError, match="is not known"), without_daemon(ledger, ""):
        pytest.fail("without a lock")
    ledger = tmp_path / "ledger.json"
    (tmp_path / "ledger.json.lock").symlink_to("elsewhere")
    with pytest.raises(ControlError, match="is not known"), without_daemon(ledger, ""):
        pytest.fail("without a look at the daemon's lock")
