"""Log lines: one per event, as JSON for machines or as text for people, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

#: What every record has; anything else was given by ``extra`` and belongs to the event.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: From the standard library: it is on the way of every start.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the event itself brought along, such as ``generation``, ``resource`` and ``devices``."""
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


def configure(level: str, form: str) -> None:
    """Send everything of `level` and above to standard error, in the given form (``json`` or
    ``console``).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A library's chatter is not ours to repeat at debug level.
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))
