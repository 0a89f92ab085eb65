"""Error answers: codes, reasons, causes and pauses; never the wording."""

from __future__ import annotations

import errno
import json
import socket
import ssl
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.cluster.client import refused_eviction
from plugin.cluster.failures import FIXES, Cause, InvalidAnswer, TooLarge, translated
from plugin.cluster.status import refusal, retry_after
from plugin.core.cluster import Evicted
from plugin.errors import ClusterRefused, ClusterUnreachable

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("10", 10.0),
        (" 0 ", 0.0),
        ("99999999999", 3600.0),
        ("Sun, 06 Nov 1994 08:49:57 GMT", 20.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:00:00 GMT", 3600.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


def status(code: int = 409, **more: Any) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "code": code, **more}).encode()


def test_a_status_is_read() -> None:
    details = {"retryAfterSeconds": 5, "causes": [{"reason": "DisruptionBudget"}, {}, 7]}
    body = status(429, reason="TooManyRequests", message="no\nmore", details=details)
    error = refusal("create pods/eviction", 429, {}, body, NOW)
    assert (error.code, error.reason, error.causes) == (
        429,
        "TooManyRequests",
        ("DisruptionBudget",),
    )
    assert error.retry_after == 5
    assert error.what == "create pods/eviction: 429 TooManyRequests: no more"
    assert refusal("x", 429, {"retry-after": "7"}, body, NOW).retry_after == 7


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_of_rights_says_what_to_do(code: int) -> None:
    assert refusal("x", code, {}, b"").fix


@given(
    st.one_of(
        st.binary(max_size=50),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["kind", "reason", "details", "causes", "message", "retryAfterSeconds"]
                    ),
                    inner | st.just("Status"),
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.integers(300, 999),
    st.text(max_size=30),
)
def test_any_body_and_header_is_an_error_with_its_code(body: bytes, code: int, header: str) -> None:
    error = refusal("x", code, {"retry-after": header}, body, NOW)
    assert error.code == code
    assert error.retry_after is None or 0 <= error.retry_after <= 3600
    assert "\n" not in str(error)
    refused_eviction(error)


@pytest.mark.parametrize(
    ("code", "body", "expected"),
    [
        (404, status(404, reason="NotFound"), Evicted.GONE),
        (409, status(409, reason="Conflict"), Evicted.GONE),
        (403, status(403, reason="Forbidden"), Evicted.FORBIDDEN),
        (
            429,
            status(429, details={"causes": [{"reason": "DisruptionBudget"}]}),
            Evicted.BUDGET_SPENT,
        ),
        (429, b"Too many requests, please try again later.", None),
        (429, status(429, reason="TooManyRequests"), None),
        (500, status(500, message="several budgets"), Evicted.NEVER),
        (500, status(500, reason="InternalError", message="no leader"), None),
        (500, b"panic", None),
        (503, status(503), None),
    ],
)
def test_what_a_refused_eviction_means(code: int, body: bytes, expected: Evicted | None) -> None:
    outcome = refused_eviction(refusal("x", code, {}, body, NOW))
    assert (outcome and outcome.outcome) is expected


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError(), Cause.TIMEOUT),
        (socket.gaierror(-2, "Name or service not known"), Cause.NAME),
        (ssl.SSLCertVerificationError(1, "self-signed"), Cause.CERTIFICATE),
        (ssl.SSLError(1, "wrong version"), Cause.TLS),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Cause.REFUSED),
        (ConnectionResetError(), Cause.RESET),
        (BrokenPipeError(), Cause.RESET),
        (EOFError("broke off"), Cause.RESET),
        (OSError(errno.EHOSTUNREACH, "no route"), Cause.NO_ROUTE),
        (OSError(errno.EMFILE, "too many open files"), Cause.RESET),
        (TooLarge("x"), Cause.TOO_LARGE),
        (h11.RemoteProtocolError("illegal"), Cause.INVALID),
        (json.JSONDecodeError("x", "", 0), Cause.INVALID),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), Cause.INVALID),
        (RecursionError(), Cause.INVALID),
        (InvalidAnswer("x"), Cause.INVALID),
    ],
)
def test_foreign_exceptions_are_translated(error: Exception, cause: Cause) -> None:
    with pytest.raises(ClusterUnreachable) as caught, translated("get nodes"):
        raise error
    assert caught.value.cause is cause
    assert caught.value.fix == FIXES.get(cause, "")
    assert caught.value.what.startswith("get nodes: ")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("x"), ClusterRefused("x", code=403), AssertionError()])
def test_mistakes_of_ours_and_our_own_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)), translated("x"):
        raise error
