"""Whose order holds, whatever was given before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.core.partition.indices import NO_PLACES, Place
from plugin.core.partition.order import Order, Source
from plugin.core.partition.precedence import (
    NOTHING,
    Command,
    Given,
    Label,
    Labelled,
    Memory,
    Start,
    after,
)

KEY = "nvidia.com/mig.config"
A, B = (Order(name, Source.COMMAND, id=name) for name in ("A", "B"))
X, Y = (Order(name, Source.OPTION) for name in ("X", "Y"))
L, M = (Order(name, Source.LABEL) for name in ("L", "M"))


def history(text: str) -> list[Given]:
    """``+X`` and ``+`` are starts with and without an option, ``=L`` and ``=`` are looks at the
    label, ``=?`` at one that is refused, ``-`` is ``cancel``, and else it is ``apply``.
    """
    found: list[Given] = []
    option = ""
    for word in text.split():
        match word[0], word[1:]:
            case "+", option:
                found.append(Start(option, KEY))
            case "=", value:
                found.append(Label(Labelled(KEY, value, refused=value == "?"), option))
            case "-", "":
                found.append(Command(None, option))
            case _:
                found.append(Command(Order(word, Source.COMMAND, id=word), option))
    return found


def at_the_end(events: Sequence[Given], memory: Memory = NOTHING) -> Memory:
    return reduce(after, events, memory)


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ("+", None),
        ("+X", X),
        ("+X +X", X),
        ("+X +", None),
        ("+X +Y", Y),
        ("+X + +X", X),
        # A command holds until the next one, or another option.
        ("+ A", A),
        ("+ A +", A),
        ("+ A B +", B),
        ("+X A +X", A),
        ("+X A +Y", Y),
        ("+X A +", A),
        ("+X A + +X", X),
        ("+ A -", None),
        # What was replaced does not come back.
        ("+ A +X +", None),
        ("+X - +X", None),
        ("+X - +Y +X", X),
        ("+X A +Y +X", X),
        ("+ - +X +", None),
        # The label counts more than an option, while the Node has it.
        ("+X =L", L),
        ("+X =L +X", L),
        ("+X =L +Y", L),
        ("+X =L +Y +X", L),
        ("+X =L +Y = +Y", Y),
        ("+X =L +Y = +X", L),
        ("+X =L =", L),
        ("+X =L = +X", L),
        ("+X =L = +Y", Y),
        ("+X =L = +", L),
        # A value counts once.
        ("+ =L A =L", A),
        ("+ =L A + =L", A),
        ("+ =L - + =L", None),
        ("+ =L A +X", A),
        ("+ =L A =M", M),
        ("+ =L A = =L", L),
        ("+ =L A =? =L", L),
        # A refused one orders nothing, until a command comes later.
        ("+X =?", X),
        ("+X =? +Y", Y),
        ("+X =? +", None),
        ("+ =L =?", L),
        ("+ =L =? +X", L),
        ("+ A =? +X", A),
    ],
)
def test_the_order_that_was_given_last_holds(events: str, order: Order | None) -> None:
    assert at_the_end(history(events)).order == order


def test_a_label_that_is_set_again_is_another_order_with_places_of_its_own() -> None:
    now, gone = Labelled(KEY, "L"), Labelled(KEY, "")
    here, there = {"GPU-1": Place(0)}, {"GPU-2": Place(0)}
    first = at_the_end([Start("", KEY), Label(now, "", here, "1")])
    again = at_the_end([Label(gone, "", there, "2"), Label(now, "", there, "3")], first)
    assert (first.places, again.places) == (here, there)
    assert first.order == Order("L", Source.LABEL, id="1")
    assert again.order == Order("L", Source.LABEL, id="3")
    assert after(again, Label(now, "", here)) is again


@pytest.mark.parametrize(
    ("option", "places"), [("X", {"GPU-1": Place(0)}), ("Y", NO_PLACES), ("", NO_PLACES)]
)
def test_an_option_that_stays_keeps_its_places(option: str, places: object) -> None:
    memory = Memory(X, "X", places={"GPU-1": Place(0)})
    assert after(memory, Start(option, KEY)).places == places


def test_a_label_of_another_key_is_not_this_one() -> None:
    memory = at_the_end([Start("X", KEY), Label(Labelled(KEY, "L"), "X")])
    assert after(memory, Start("Y", KEY)).order == L
    assert after(memory, Start("Y", "example.com/other")).order == Y


# ---- whatever comes

WORDS = [*("+", "+X", "+Y"), *("=", "=L", "=M", "=?"), "-", "A", "B"]


@st.composite
def histories(draw: st.DrawFn) -> list[str]:
    first = draw(st.sampled_from(["+", "+X", "+Y"]))
    return [first, *draw(st.lists(st.sampled_from(WORDS), max_size=9))]


def last_given(words: Sequence[str]) -> str:
    """The word that ordered last, looked for from the end; ``""`` if none did."""
    found = (n for n in range(len(words) - 1, -1, -1) if orders(words[n], words[:n]))
    return next((words[n] for n in found), "")


def orders(word: str, before: Sequence[str]) -> bool:
    """Whether a word is an order behind others, or ends one."""
    if word[0] == "=":
        return word not in {"=", "=?", label(before)}
    if word[0] != "+":
        return True
    by_option = last_given(before)[:1] in {"", "+"}
    if label(before) != "=" and not by_option:
        return False
    return word != known_option(before) and (word != "+" or by_option)


def label(words: Sequence[str]) -> str:
    return next((each for each in reversed(words) if each[0] == "="), "=")


def known_option(words: Sequence[str]) -> str:
    """That of the last start that was looked at, or was replaced by another order."""
    for n in range(len(words) - 1, -1, -1):
        word, before = words[n], words[:n]
        if word[0] == "+":
            if label(before) == "=" or last_given(before)[:1] in {"", "+"}:
                return word
        elif orders(word, before):
            return next(each for each in reversed(before) if each[0] == "+")
    return "+"


ORDERS = {"": None, "+": None, "-": None, "+X": X, "+Y": Y, "=L": L, "=M": M, "A": A, "B": B}


@given(histories())
def test_of_any_history_the_last_order_holds(words: list[str]) -> None:
    assert at_the_end(history(" ".join(words))).order == ORDERS[last_given(words)]


@given(histories())
def test_an_order_that_is_over_never_comes_back(words: list[str]) -> None:
    over: list[Order] = []
    memory = NOTHING
    for event in history(" ".join(words)):
        new = after(memory, event)
        if memory.order is not None and new.order is not memory.order:
            over.append(memory.order)
        assert all(new.order is not each for each in over)
        memory = new


@given(histories(), st.sampled_from(["", "X", "Y"]))
def test_a_second_start_and_a_second_look_change_nothing(words: list[str], option: str) -> None:
    once = at_the_end([*history(" ".join(words)), Start(option, KEY)])
    assert after(once, Start(option, KEY)) == once
    for value in ("", "L"):
        looked = after(once, Label(Labelled(KEY, value), option))
        assert after(looked, Label(Labelled(KEY, value), option)) is looked
