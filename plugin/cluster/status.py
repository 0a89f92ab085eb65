"""Reads error answers: the Status object and Retry-After."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from plugin.cluster.failures import InvalidAnswer, json_object
from plugin.core.quote import shorten
from plugin.errors import ClusterRefused

#: A server that names a longer pause is asked again after this one.
LONGEST_RETRY_AFTER = 3600.0
_LONGEST_MESSAGE = 500

_FIXES = {
    HTTPStatus.UNAUTHORIZED: "check the token: of the pod's service account, or the kubeconfig's",
    HTTPStatus.FORBIDDEN: "grant the verb to the plugin's service account (ClusterRole of the "
    "chart)",
}


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header: a number or a date; `now` is the wall clock."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 — 5 ms that few answers need

    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, moment - now), LONGEST_RETRY_AFTER)


def refusal(
    doing: str,
    code: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None = None,
) -> ClusterRefused:
    """The error of an answer; a body that is no Status leaves reason and causes empty."""
    status = _status(body)
    message = str(status.get("message") or "")
    details = _mapping(status.get("details"))
    pause = retry_after(headers.get("retry-after"), time.time() if now is None else now)
    seconds = details.get("retryAfterSeconds")
    if pause is None and isinstance(seconds, int | float) and 0 < seconds < math.inf:
        # An integer of any size is less than infinity, and may be more than any float.
        pause = float(min(seconds, LONGEST_RETRY_AFTER))
    reason = str(status.get("reason") or "")
    text = shorten(" ".join(message.split()), _LONGEST_MESSAGE)
    what = f"{doing}: {code}" + (f" {reason}" if reason else "") + (f": {text}" if text else "")
    return ClusterRefused(
        what,
        _FIXES.get(HTTPStatus(code), "") if code in set(HTTPStatus) else "",
        code=code,
        reason=reason,
        causes=_causes(details),
        retry_after=pause,
        message=text,
    )


def watch_error(doing: str, status: Mapping[str, Any]) -> ClusterRefused:
    """The error of a watch's ERROR event, whose object is a Status."""
    code = status.get("code")
    return refusal(
        doing,
        code if type(code) is int else HTTPStatus.INTERNAL_SERVER_ERROR,
        {},
        json.dumps(status).encode(),
    )


def _causes(details: Mapping[str, Any]) -> tuple[str, ...]:
    causes = details.get("causes")
    found = (_mapping(each) for each in causes) if isinstance(causes, list) else ()
    return tuple(str(each["reason"]) for each in found if each.get("reason"))


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        status = json_object(body)
    except InvalidAnswer:
        return {}
    return status if status.get("kind") == "Status" else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
