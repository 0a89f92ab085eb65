"""Preferred allocation: inconsistent requests get a best effort and a warning."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from plugin.core.advertise.listed import Listed
from plugin.core.reasons import Reason
from plugin.core.settings import Policy

from .preference_nodes import TWO_GPUS, choose, name, names

# ---- odd input

SICK = tuple(
    replace(item, reasons=(Reason("xid-79", "XID 79"),)) if item.id == name(0, 0) else item
    for item in TWO_GPUS
)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(
    ("listed", "available", "must", "size", "expected", "warning"),
    [
        pytest.param(TWO_GPUS, [], [], 0, [], None, id="nothing of nothing"),
        pytest.param(
            TWO_GPUS, names(g0=[1]), [], -1, [], "although -1 are wanted", id="less than nothing"
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[1]),
            [],
            2,
            names(g0=[1]),
            "2 are wanted and 1 are available",
            id="too few",
        ),
        pytest.param(
            TWO_GPUS,
            [],
            names(g0=[1]),
            1,
            names(g0=[1]),
            None,
            id="must is not repeated in available",
        ),
        pytest.param(
            TWO_GPUS,
            [],
            names(g0=[1, 2]),
            1,
            names(g0=[1, 2]),
            "2 must be included although 1",
            id="more must than size",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[1, 1]),
            names(g0=[1, 1]),
            1,
            names(g0=[1]),
            None,
            id="ids named twice",
        ),
        pytest.param(
            TWO_GPUS,
            ["x", *names(g0=[1])],
            [],
            1,
            names(g0=[1]),
            "x for one",
            id="unknown: rather not",
        ),
        pytest.param(
            TWO_GPUS,
            ["x", *names(g0=[1])],
            [],
            2,
            [*names(g0=[1]), "x"],
            "x for one",
            id="unknown: if need be",
        ),
        pytest.param(
            TWO_GPUS,
            names(g0=[1]),
            ["x"],
            2,
            ["x", *names(g0=[1])],
            "x for one",
            id="unknown: must",
        ),
        pytest.param((), ["y", "x"], [], 1, ["x"], "2 of the ids", id="the resource has gone"),
        pytest.param(
            SICK, names(g0=[0, 1]), [], 1, names(g0=[1]), name(0, 0), id="unhealthy: rather not"
        ),
        pytest.param(
            SICK, names(g0=[0]), [], 1, names(g0=[0]), name(0, 0), id="unhealthy: if need be"
        ),
        pytest.param(
            SICK,
            names(g0=[0, 1]),
            names(g0=[0]),
            1,
            names(g0=[0]),
            name(0, 0),
            id="unhealthy: must",
        ),
    ],
)
def test_odd_input_gets_a_best_effort_and_a_warning(
    policy: Policy,
    listed: Sequence[Listed],
    available: list[str],
    must: list[str],
    size: int,
    expected: list[str],
    warning: str | None,
) -> None:
    preference = choose(listed, available, size, must=must, policy=policy)
    assert sorted(preference.ids) == sorted(expected)
    if warning is None:
        assert preference.warnings == ()
    else:
        (said,) = preference.warnings
        assert warning in said
