"""Progress of partitioning as lines."""

from __future__ import annotations

import pytest

from plugin.commands.partition_lines import summary
from plugin.core.partition.progress import GpuProgress, GpuState, Progress, State, document
from plugin.core.partition.trouble import Code, Trouble

FULL = Trouble(Code.NOT_SAVED, "No space left on device")
HELD = Trouble(Code.IN_USE, "GPU 1 waits for 1:0, held by ml/train")


@pytest.mark.parametrize(
    ("reason", "of_gpus", "ends"),
    [
        (None, [None], "waiting for 5 s"),
        (FULL, [], "waiting for 5 s: No space left on device"),
        (FULL, [None, HELD], "waiting for 5 s: No space left on device"),
        # It is in the GPU's line.
        (HELD, [None, HELD], "waiting for 5 s"),
    ],
)
def test_the_reason_of_the_node_is_shown_once(
    reason: Trouble | None, of_gpus: list[Trouble | None], ends: str
) -> None:
    gpus = tuple(
        GpuProgress(f"GPU-{index}", index, GpuState.PENDING, trouble=trouble)
        for index, trouble in enumerate(of_gpus)
    )
    now = Progress(State.WAITING, "mine", gpus=gpus, trouble=reason, since=100.0)
    assert summary(document(now), 105.0).endswith(ends)
