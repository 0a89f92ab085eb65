"""Two processes that kept one ledger: nothing that either of them did is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core import state as steps
from plugin.core.health.ledger import Entry, Ledger
from plugin.core.health.merging import merged
from plugin.core.reasons import Reason
from plugin.core.settings import Settings

A, B = "MIG-a", "MIG-b"


def ledger(**codes: str) -> Ledger:
    """``a="x y"``: MIG-a with these reasons."""
    return {
        f"MIG-{name}": Entry("GPU-0", reasons=tuple(Reason.held(c, c, 1.0) for c in text.split()))
        for name, text in codes.items()
    }


def codes(of: Ledger) -> dict[str, str]:
    return {uuid: " ".join(reason.code for reason in entry.reasons) for uuid, entry in of.items()}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "result"),
    [
        pytest.param({}, {}, {}, {}, id="nothing"),
        pytest.param({}, {"a": "x"}, {}, {A: "x"}, id="ours is new"),
        pytest.param({}, {}, {"a": "x"}, {A: "x"}, id="theirs is new"),
        pytest.param({}, {"a": "x"}, {"a": "y"}, {A: "x y"}, id="both are"),
        pytest.param({}, {"a": "x"}, {"a": "x"}, {A: "x"}, id="the same"),
        pytest.param({"a": "x"}, {"a": "x"}, {"a": ""}, {A: ""}, id="theirs ended"),
        pytest.param({"a": "x"}, {"a": ""}, {"a": "x"}, {A: ""}, id="ours ended"),
        pytest.param({"a": "x"}, {"a": "x"}, {}, {A: ""}, id="their entry ended"),
        pytest.param({"a": "x"}, {"a": ""}, {"a": "x y"}, {A: "y"}, id="one ended, one is new"),
        pytest.param({"a": "x"}, {"b": "y"}, {"a": "x"}, {A: "", B: "y"}, id="of two devices"),
    ],
)
def test_what_each_changed_holds(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str], result: dict[str, str]
) -> None:
    assert codes(merged(ledger(**base), ledger(**ours), ledger(**theirs))) == result


_LEDGERS = st.dictionaries(
    st.sampled_from("ab"), st.sets(st.sampled_from("xyz")).map(lambda s: " ".join(sorted(s)))
).map(lambda names: ledger(**names))


@given(_LEDGERS, _LEDGERS, _LEDGERS)
def test_who_changed_nothing_changes_nothing(base: Ledger, ours: Ledger, theirs: Ledger) -> None:
    def held(of: Ledger) -> set[tuple[str, str]]:
        return {(uuid, r.code) for uuid, entry in of.items() for r in entry.reasons}

    assert held(merged(base, ours, base)) == held(ours)
    assert held(merged(base, base, theirs)) == held(theirs)
    both = held(merged(base, ours, theirs))
    assert both == held(merged(base, theirs, ours))
    assert both >= (held(ours) | held(theirs)) - held(base)  # whatever is new stays


def test_the_longer_history_of_flapping_stays() -> None:
    ours, theirs = ledger(a="x"), {A: replace(ledger(a="x")[A], flaps=3)}
    assert merged({}, ours, theirs)[A].flaps == 3


def test_before_the_first_scan_readers_are_shown_nothing() -> None:
    step = steps.rejoined(steps.initial(Settings(), 0.0), {}, ledger(a="x"))
    assert step.state.snapshot.generation == 0
    assert codes(step.state.snapshot.ledger) == {A: "x"}
