"""Log lines for machines and for people."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from plugin.core.settings import MigStrategy
from plugin.logs import ConsoleFormatter, JsonFormatter, configure, configure_command


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "plugin.state.writer", "msg": message, "args": args, "levelname": "WARNING"}
    )
    made.created = 1_700_000_000.25
    for key, value in extra.items():
        setattr(made, key, value)
    return made


def caught() -> logging.LogRecord:
    try:
        raise ValueError("bad")  # noqa: TRY301 — a record with a traceback is wanted
    except ValueError:
        return record("failed", exc_info=sys.exc_info())


def test_a_line_of_json() -> None:
    line = JsonFormatter().format(record("%s of %d", "one", 2, generation=3, devices=("a", "b")))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "plugin.state.writer",
        "message": "one of 2",
        "generation": 3,
        "devices": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (MigStrategy.MIXED, "mixed"),
        (PurePosixPath("/dev"), "/dev"),
        (ValueError("bad"), "bad"),
        ({"a": PurePosixPath("/dev")}, {"a": "/dev"}),
        ("two\nlines", "two\nlines"),
        ("größer", "größer"),
    ],
)
def test_any_value_can_be_a_field(value: object, written: object) -> None:
    line = JsonFormatter().format(record("x", field=value))
    assert "\n" not in line
    assert json.loads(line)["field"] == written


def test_an_exception_is_a_field_of_the_same_line() -> None:
    line = JsonFormatter().format(caught())
    assert "\n" not in line
    assert "ValueError: bad" in json.loads(line)["exception"]


@pytest.mark.parametrize(
    ("extra", "end"),
    [
        ({}, "warning advertising"),
        ({"generation": 3}, "warning advertising  generation=3"),
        ({"reason": "two words"}, 'warning advertising  reason="two words"'),
        ({"devices": ["a", "b"]}, "warning advertising  devices=a,b"),
        ({"a": 1, "b": 2}, "warning advertising  a=1  b=2"),
    ],
)
def test_a_line_for_people(extra: dict[str, object], end: str) -> None:
    time, _, rest = ConsoleFormatter().format(record("advertising", **extra)).partition(" ")
    assert time.count(":") == 2
    assert rest == end


def test_people_see_the_traceback() -> None:
    assert ConsoleFormatter().format(caught()).endswith("ValueError: bad")


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was afterwards."""
    root, chatter = logging.getLogger(), logging.getLogger("asyncio")
    before = root.handlers[:], root.level, chatter.level
    yield root
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    chatter.setLevel(before[2])


@pytest.mark.parametrize(
    ("form", "shown"), [("json", '"message":"seen"'), ("console", "info    seen")]
)
def test_lines_go_to_standard_error(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str], form: str, shown: str
) -> None:
    configure("info", form)
    logging.getLogger("plugin.x").info("seen")
    logging.getLogger("plugin.x").debug("not seen")
    out, err = capsys.readouterr()
    assert out == ""
    assert shown in err
    assert err.count("\n") == 1
    assert len(root_logger.handlers) == 1


@pytest.mark.parametrize(("level", "chatter"), [("debug", logging.INFO), ("error", logging.ERROR)])
def test_a_library_is_not_repeated_at_debug_level(
    root_logger: logging.Logger, level: str, chatter: int
) -> None:
    configure(level, "json")
    assert root_logger.level == getattr(logging, level.upper())
    assert logging.getLogger("asyncio").level == chatter


def test_a_command_has_its_warnings_as_whole_lines(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    present = root_logger.handlers[:]
    configure_command()
    assert root_logger.handlers == present
    root_logger.handlers.clear()
    configure_command()
    logging.getLogger("plugin.x").warning("not as recorded", extra={"difference": "GPU 0: bus"})
    logging.getLogger("plugin.x").info("not seen")
    err = capsys.readouterr().err
    assert err.endswith(' warning not as recorded  difference="GPU 0: bus"\n')
    assert err.count("\n") == 1
