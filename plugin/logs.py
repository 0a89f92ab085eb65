"""Log lines on standard error: one per event, as JSON or as text for terminals."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

#: Attributes of every record; the others come from ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: The standard library's, because it is imported at every start.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The event's own fields, such as ``generation``, ``resource`` and ``devices``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …, …fields}`` in one line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _JSON.encode(line)


class ConsoleFormatter(logging.Formatter):
    """``HH:MM:SS level  message  key=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extra = "".join(f"  {key}={_shown(value)}" for key, value in fields(record).items())
        text = f"{time} {record.levelname.lower():<7} {record.getMessage()}{extra}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    text = str(value)
    return f'"{text}"' if " " in text else text


def configure_command() -> None:
    """For a command, whose log is its warnings; nothing where logging is set up already."""
    if not logging.getLogger().handlers:
        configure("warning", "console")


def silence(room: str) -> None:
    """For a command whose own error or warning says what this room's log would."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, ConsoleFormatter):  # our own
            handler.addFilter(lambda record: not f"{record.name}.".startswith(f"{room}."))


def configure(level: str, form: str) -> None:
    """Log `level` and above to standard error, as ``json`` or ``console``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # asyncio's debug messages are noise.
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))
