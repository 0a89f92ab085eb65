"""What stands on the Node about partitioning: a word in a label, the rest in an annotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from plugin.core.partition.order import Source
from plugin.core.partition.progress import GpuProgress, GpuState, Progress, State
from plugin.core.partition.trouble import Code, Trouble

ANNOTATION: Final = "nvidia.com/mig-device-plugin.partition"
#: Of each text: all annotations of an object share 256 KiB.
_MOST_NODE_TEXT, _MOST_GPU_TEXT, _MOST_NAME = 2000, 300, 63
#: No machine has more.
_MOST_GPUS = 64

_WORDS: Final[Mapping[State, str]] = {
    State.PENDING: "pending",
    State.WAITING: "pending",
    State.APPLYING: "pending",
    State.SUCCESS: "success",
    State.FAILED: "failed",
    # Whoever waits for the end must not wait for a reset that nobody has ordered.
    State.RESET_NEEDED: "failed",
}


def state_key(label: str) -> str:
    """The key of the answer, as NVIDIA's MIG Manager names it."""
    return f"{label}.state"


def answer(
    label: str, value: str, progress: Progress | None, refused: Trouble | None = None
) -> tuple[str | None, dict[str, Any] | None]:
    """The state label's value and the annotation's document; ``None`` where there should be none.
    `value` is that of the label, `refused` why it was not taken up.

    While another order is in force than the label's, the label has no answer.
    """
    if refused is not None:
        final = refused.code is Code.UNKNOWN_CONFIGURATION
        state = State.FAILED if final else State.PENDING
        shown = Progress(state, value, Source.LABEL, trouble=refused)
        return _WORDS[state], _document(label, None, shown)
    if progress is None or progress.state is State.IDLE:
        return None, None
    answers = progress.source is Source.LABEL or progress.configuration == value
    word = _WORDS[progress.state] if answers else None
    return word, _document(label, value, progress)


def _document(label: str, taken: str | None, progress: Progress) -> dict[str, Any]:
    document: dict[str, Any] = {
        "label": label,
        "value": taken,
        "name": progress.configuration[:_MOST_NAME],
        "source": progress.source.value if progress.source is not None else None,
        "state": progress.state.value,
    }
    if progress.trouble is not None:
        document["reason"] = _reason(progress.trouble, _MOST_NODE_TEXT)
    document["gpus"] = [_gpu(gpu) for gpu in progress.gpus[:_MOST_GPUS]]
    return document


def _gpu(gpu: GpuProgress) -> dict[str, Any]:
    found: dict[str, Any] = {"index": gpu.index, "state": gpu.state.value}
    if gpu.state is GpuState.APPLYING:
        found["steps"] = {"done": gpu.done, "total": gpu.total}
    if gpu.trouble is not None:
        found["reason"] = _reason(gpu.trouble, _MOST_GPU_TEXT)
    return found


def _reason(trouble: Trouble, most: int) -> dict[str, str]:
    text = trouble.text if len(trouble.text) <= most else f"{trouble.text[: most - 1]}…"
    return {"code": trouble.code.value, "text": text}
