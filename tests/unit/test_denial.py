"""Why a socket may not listen, and what to set, as a table."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from plugin.core.denial import explained
from plugin.kubelet.deviceplugin.server import why_not

ROOT, SOMEBODY = 0, 1000


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "user", "port", "words"),
    [
        (errno.EACCES, ROOT, None, ("EACCES", "SELinux or AppArmor", "spc_t", "Unconfined")),
        (errno.EPERM, ROOT, None, ("EPERM", "SELinux or AppArmor", "spc_t")),
        (errno.EACCES, ROOT, 9400, ("EACCES", "SELinux or AppArmor")),
        (errno.EACCES, SOMEBODY, None, ("EACCES", "user 1000 may not", "run as root")),
        (errno.EACCES, ROOT, 80, ("EACCES", "NET_BIND_SERVICE", "higher port")),
        (errno.EACCES, SOMEBODY, 80, ("EACCES", "NET_BIND_SERVICE")),
        (errno.ENOENT, ROOT, None, ("No such file", "ENOENT", "mount or create")),
        (errno.EROFS, ROOT, None, ("EROFS", "writable")),
        (errno.EADDRINUSE, ROOT, 9400, ("in use", "EADDRINUSE")),
    ],
)
def test_the_reason_is_named_and_what_to_set(
    number: int, user: int, port: int | None, words: tuple[str, ...]
) -> None:
    line = explained("cannot serve on x", failed(number), user=user, port=port)
    assert line.startswith("cannot serve on x: ")
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("number", "port"), [(errno.ENOENT, None), (errno.EADDRINUSE, 80), (errno.EACCES, 80)]
)
def test_security_modules_are_suspected_of_denials_alone(number: int, port: int | None) -> None:
    assert "SELinux" not in explained("x", failed(number), user=ROOT, port=port)


def test_an_error_without_a_number_speaks_for_itself() -> None:
    assert explained("x", OSError("AF_UNIX path too long"), user=ROOT) == "x: AF_UNIX path too long"


def test_grpc_names_no_reason_but_the_system_does(tmp_path: Path) -> None:
    assert "ENOENT" in why_not(tmp_path / "missing" / "a.sock", "gRPC's words")
    assert "path too long" in why_not(tmp_path / ("a" * 120), "gRPC's words")


def test_what_has_gone_well_since_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    assert why_not(path, "gRPC's words").endswith("gRPC's words")
    assert not path.exists()


def test_a_socket_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        assert "EADDRINUSE" in why_not(path, "gRPC's words")
        assert path.exists()


def test_every_attempt_has_the_same_reason(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert why_not(nowhere / "a-1.sock", "") == why_not(nowhere / "a-2.sock", "")
