"""Error answers as Status objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refused(Exception):
    """Answer with a Status. ``reason`` defaults to that of the code; ``retry_after`` becomes a
    header.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        causes: Sequence[Mapping[str, str]] = (),
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = REASONS.get(code, "") if reason is None else reason
        self.causes = causes
        self.retry_after = retry_after

    @property
    def status(self) -> dict[str, Any]:
        """The body."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.causes:
            status["details"] = {"causes": list(self.causes)}
        return status | {"code": self.code}


def invalid(what: str, field: str, problem: str) -> Refused:
    """422, as validation answers."""
    return Refused(
        422,
        f"{what} is invalid: {field}: {problem}",
        causes=[{"reason": "FieldValueInvalid", "message": problem, "field": field}],
    )
