"""Reasons: their codes are listed in one place, and the documents list the same."""

from __future__ import annotations

import re
from pathlib import Path

from plugin.core.reasons import MEANINGS, Clears, Code, Reason, texts, xid_code

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_code_has_a_meaning() -> None:
    assert MEANINGS.keys() == {*Code, "xid-N"}
    assert xid_code(79) == "xid-79"


def test_the_table_of_codes_is_that_of_the_module() -> None:
    text = (DOCS / "health.md").read_text(encoding="utf-8").partition("## Reasons")[2]
    rows = re.findall(r"^\| `([a-zN-]+)` \| (.+) \|$", text.partition("\n## ")[0], re.MULTILINE)
    assert dict(rows) == {str(code): meaning for code, meaning in MEANINGS.items()}


def test_the_metric_names_every_code() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `mig_device_plugin_device_unhealthy_reason` .*$", text, re.MULTILINE)
    assert set(MEANINGS) <= set(re.findall(r"`([\w-]+)`", row))


def test_a_held_reason_begins_now_and_others_have_no_time() -> None:
    held = Reason.held(xid_code(79), "lost", 5.0)
    assert (held.since, held.last, held.clears) == (5.0, 5.0, Clears.RECOVERY)
    seen = Reason(Code.UNREADABLE, "no answer")
    assert (seen.since, seen.last, seen.clears) == (None, None, None)
    assert texts((held, seen)) == "lost; no answer"
