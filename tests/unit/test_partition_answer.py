"""What stands on the Node about partitioning."""

from __future__ import annotations

import json

import pytest

from plugin.core.partition.answer import answer, state_key
from plugin.core.partition.order import Source
from plugin.core.partition.progress import GpuProgress, GpuState, Progress, State
from plugin.core.partition.trouble import Code, Trouble

KEY = "nvidia.com/mig.config"
WORDS = {
    State.IDLE: None,
    State.PENDING: "pending",
    State.WAITING: "pending",
    State.APPLYING: "pending",
    State.SUCCESS: "success",
    State.FAILED: "failed",
    State.RESET_NEEDED: "failed",
}


@pytest.mark.parametrize("state", State)
def test_every_state_has_one_of_the_words_of_mig_manager(state: State) -> None:
    word, document = answer(KEY, "a", Progress(state, "a", Source.LABEL))
    assert word == WORDS[state]
    assert (document is None) is (state is State.IDLE)


@pytest.mark.parametrize(
    ("name", "source", "word"),
    [
        ("a", Source.LABEL, "success"),
        ("b", Source.LABEL, "success"),  # the label was emptied, and its order stays
        ("a", Source.COMMAND, "success"),
        ("b", Source.COMMAND, None),
        ("b", Source.OPTION, None),
    ],
)
def test_the_label_is_answered_while_it_is_what_is_applied(
    name: str, source: Source, word: str | None
) -> None:
    assert answer(KEY, "a", Progress(State.SUCCESS, name, source))[0] == word


def test_nothing_wanted_has_no_answer() -> None:
    assert answer(KEY, "", None) == (None, None)


def test_a_refused_value_is_not_one_that_was_taken_up() -> None:
    now = Progress(State.SUCCESS, "b", Source.COMMAND)
    unknown = Trouble(Code.UNKNOWN_CONFIGURATION, "no such name")
    word, document = answer(KEY, "a", now, unknown)
    assert document is not None
    assert (word, document["name"], document["state"]) == ("failed", "a", "failed")
    later = Trouble(Code.DRIVER_UNAVAILABLE, "no answer")
    assert answer(KEY, "a", now, later)[0] == "pending"


def test_it_is_bounded() -> None:
    """All annotations of a Node share 256 KiB."""
    long = Trouble(Code.STEP_FAILED, "x" * 100_000)
    gpus = tuple(
        GpuProgress(f"GPU-{index}", index, GpuState.APPLYING, trouble=long, total=14)
        for index in range(1000)
    )
    progress = Progress(State.APPLYING, "n" * 100_000, Source.COMMAND, gpus=gpus, trouble=long)
    _, document = answer(KEY, "a", progress)
    assert document is not None
    assert len(json.dumps(document)) < 32_000
    assert document["gpus"][0]["steps"] == {"done": 0, "total": 14}


def test_the_key_of_the_answer_is_that_of_mig_manager() -> None:
    assert state_key(KEY) == "nvidia.com/mig.config.state"
