"""How soon a resource is registered again: tables."""

from __future__ import annotations

import pytest

from plugin.kubelet.deviceplugin.pacing import FLAPPING, FREE_DELETIONS, WELL_SECONDS, Loss, Pacing

SHORT = WELL_SECONDS - 1


def pacing() -> Pacing:
    return Pacing(jitter=lambda: 1.0)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([(Loss.STREAM, SHORT)] * 5, [0, 0.05, 0.1, 0.2, 0.4]),
        ([(Loss.STREAM, WELL_SECONDS)] * 3, [0, 0, 0]),
        ([(Loss.STREAM, 0), (Loss.STREAM, 0), (Loss.STREAM, WELL_SECONDS)], [0, 0.05, 0]),
        ([(Loss.NEW_KUBELET, 0)] * 5, [0] * 5),
        ([(Loss.RIVAL, 0)] * 5, [0] * 5),
        ([(Loss.OWN_SOCKET, 0)] * (FREE_DELETIONS + 2), [0] * FREE_DELETIONS + [0.05, 0.1]),
        # One kind of loss does not slow down the other.
        ([(Loss.STREAM, 0), (Loss.OWN_SOCKET, 0), (Loss.STREAM, 0)], [0, 0, 0.05]),
    ],
)
def test_delays_after_losses(losses: list[tuple[Loss, float]], expected: list[float]) -> None:
    pace = pacing()
    assert [pace.lost(loss, lasted) for loss, lasted in losses] == expected


@pytest.mark.parametrize(
    ("loss", "count"), [(Loss.STREAM, FLAPPING), (Loss.OWN_SOCKET, FREE_DELETIONS + FLAPPING)]
)
def test_flapping_until_one_has_lasted(loss: Loss, count: int) -> None:
    pace = pacing()
    for _ in range(count - 1):
        pace.lost(loss, 0)
        assert not pace.is_flapping(0)
    pace.lost(loss, SHORT)
    assert pace.is_flapping(SHORT)
    assert not pace.is_flapping(WELL_SECONDS)
    pace.lost(loss, WELL_SECONDS)
    assert not pace.is_flapping(0)


def test_a_refusal_is_forgotten_with_the_next_registration_or_kubelet() -> None:
    pace = pacing()
    assert [pace.refused() for _ in range(3)] == [0.05, 0.1, 0.2]
    pace.accepted()
    assert [pace.refused() for _ in range(2)] == [0.05, 0.1]
    pace.new_kubelet()
    assert pace.refused() == 0.05


def test_a_new_kubelet_is_not_judged_by_the_old_one() -> None:
    pace = pacing()
    for _ in range(FLAPPING):
        pace.lost(Loss.STREAM, 0)
    pace.new_kubelet()
    assert not pace.is_flapping(0)
    assert pace.lost(Loss.STREAM, 0) == 0


def test_plugins_of_others_that_come_and_go_are_followed_ever_more_slowly() -> None:
    pace = pacing()
    assert [pace.rival_gone(SHORT) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert pace.rival_gone(WELL_SECONDS) == 1
