"""How far partitioning is: one value for the page, the metrics, JSON, labels and Events."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.partition.configuration import Wanted
from plugin.core.partition.node import Action, Decision, NodePlan
from plugin.core.partition.order import Source
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import Blocker, RefusalCode
from plugin.core.partition.tracks import INTERRUPTED, Run, Track
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.partition.use import UNKNOWN_HOLDER


class State(enum.StrEnum):
    """Of the node."""

    IDLE = "idle"  # no configuration is wanted
    PENDING = "pending"  # not looked at yet, or it cannot be
    WAITING = "waiting"  # for devices in use, or for another attempt
    APPLYING = "applying"
    RESET_NEEDED = "reset-needed"  # the rest is done
    SUCCESS = "success"
    FAILED = "failed"


#: Nothing more happens by itself.
ENDS: Final = frozenset({State.SUCCESS, State.FAILED, State.RESET_NEEDED, State.IDLE})


class GpuState(enum.StrEnum):
    """Of a GPU that the configuration names."""

    APPLIED = "applied"
    PENDING = "pending"  # its turn comes
    APPLYING = "applying"
    WAITING = "waiting"  # for devices in use
    RETRYING = "retrying"  # after a failure
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"  # it has its last good geometry
    RESET_NEEDED = "reset-needed"
    HELD = "held"  # because of another GPU
    REFUSED = "refused"  # there is no plan for it
    FAILED = "failed"  # what it has is neither wanted nor was good


class GpuProgress(Struct, frozen=True):
    """``blockers`` are the devices that it waits for. ``done`` of ``total`` steps are made."""

    uuid: str
    index: int
    state: GpuState
    wanted: Wanted | None = None
    trouble: Trouble | None = None
    blockers: tuple[Blocker, ...] = ()
    done: int = 0
    total: int = 0


class Counts(Struct, frozen=True):
    """Since the daemon's start. ``steps`` and ``failures`` are by kind of step."""

    steps: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    applied: int = 0
    rolled_back: int = 0
    failed: int = 0
    waiting_seconds: float = 0.0
    applying_seconds: float = 0.0


class Progress(Struct, frozen=True):
    """``since`` is when ``state`` began, in seconds of the wall clock. ``order`` numbers the orders
    since the daemon's start. ``seconds`` is how long the last order took until it was applied.
    ``notes`` say what is not known. ``id`` is that of the order.
    """

    state: State = State.IDLE
    configuration: str = ""
    source: Source | None = None
    policy: Policy = Policy.WAIT
    since: float = 0.0
    order: int = 0
    id: str = ""
    gpus: tuple[GpuProgress, ...] = ()
    trouble: Trouble | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    counts: Counts = Counts()

    @property
    def ended(self) -> bool:
        """Nothing more happens by itself."""
        return self.state in ENDS


IDLE: Final = Progress()

_STATES = {
    Action.NOTHING: GpuState.APPLIED,
    Action.CHANGE: GpuState.PENDING,
    Action.WAIT: GpuState.WAITING,
    Action.EVICT: GpuState.WAITING,
    Action.RESET: GpuState.RESET_NEEDED,
    Action.HELD: GpuState.HELD,
    Action.REFUSED: GpuState.REFUSED,
}


#: Nothing but a failure keeps these from what they should have.
_FREE = frozenset({Action.NOTHING, Action.CHANGE})


def gpus(
    plan: NodePlan, run: Run, wanted: Mapping[str, Wanted], indices: Mapping[str, int]
) -> tuple[GpuProgress, ...]:
    """Every GPU that the configuration names or that is half-made, in order; one without a readable
    UUID has none. `indices` are those of all GPUs.
    """
    decisions = {each.gpu.uuid: each for each in plan.decisions}
    found = (
        _gpu(uuid, indices[uuid], wanted.get(uuid), decisions.get(uuid), run.tracks.get(uuid))
        for uuid in dict.fromkeys([*wanted, *decisions, *run.tracks])
        if uuid in indices
    )
    unreadable = (
        GpuProgress("", index, GpuState.REFUSED, None, Trouble(Code.UNREADABLE, why))
        for index, why in plan.unreadable.items()
    )
    return tuple(sorted((*found, *unreadable), key=lambda gpu: gpu.index))


def _gpu(
    uuid: str, index: int, wanted: Wanted | None, decision: Decision | None, track: Track | None
) -> GpuProgress:
    blockers = decision.blockers if decision is not None else ()
    steps = len(decision.plan.steps) if decision is not None and decision.plan is not None else 0
    wanted = wanted or (decision.wanted if decision is not None else None)
    state, why = _state(decision, track)
    return GpuProgress(uuid, index, state, wanted, why, blockers, 0, steps)


def _state(decision: Decision | None, track: Track | None) -> tuple[GpuState, Trouble | None]:
    """What failed counts while the GPU could change; where it cannot, that is what it waits for."""
    if decision is None or (track is not None and decision.action in _FREE):
        return (tracked(track), track.trouble) if track is not None else (GpuState.PENDING, None)
    if decision.back and decision.action is Action.CHANGE:
        return GpuState.ROLLING_BACK, Trouble(Code.STEP_FAILED, decision.text or INTERRUPTED)
    if decision.code is RefusalCode.UNSETTLED:
        return GpuState.PENDING, _why(decision)
    return _STATES[decision.action], _why(decision)


def tracked(track: Track) -> GpuState:
    if track.ended:
        if track.restored:
            return GpuState.ROLLED_BACK
        reset = track.trouble.code is Code.RESET_NEEDED
        return GpuState.RESET_NEEDED if reset else GpuState.FAILED
    if track.back:
        return GpuState.ROLLING_BACK
    return GpuState.WAITING if track.trouble.code is Code.IN_USE else GpuState.RETRYING


def _why(decision: Decision) -> Trouble | None:
    match decision.action:
        case Action.NOTHING | Action.CHANGE:
            return None
        case Action.RESET:
            return Trouble(Code.RESET_NEEDED, decision.text)
        case Action.HELD:
            return Trouble(Code.HELD, decision.text)
    if any(UNKNOWN_HOLDER in each.holders for each in decision.blockers):
        text = f"GPU {decision.gpu.index} waits: {UNKNOWN_HOLDER}"
        return Trouble(Code.HOLDERS_UNKNOWN, text)
    return Trouble(Code(decision.code or Code.UNREADABLE), decision.text)


_BUSY = frozenset({GpuState.APPLYING, GpuState.PENDING, GpuState.ROLLING_BACK})
_PATIENT = frozenset({GpuState.WAITING, GpuState.RETRYING})
_BAD = frozenset({GpuState.FAILED, GpuState.ROLLED_BACK, GpuState.REFUSED, GpuState.HELD})


def node_state(found: tuple[GpuProgress, ...]) -> State:
    """The node's state from those of its GPUs: as long as something may still happen, that."""
    states = {gpu.state for gpu in found}
    refused_for_use = any(
        gpu.state is GpuState.REFUSED
        and gpu.trouble is not None
        and gpu.trouble.code is Code.HOLDERS_UNKNOWN
        for gpu in found
    )
    if states & _BUSY:
        return State.APPLYING
    if states & _PATIENT or refused_for_use:
        return State.WAITING
    if states & _BAD:
        return State.FAILED
    return State.RESET_NEEDED if GpuState.RESET_NEEDED in states else State.SUCCESS


def of_gpus(progress: Progress, found: tuple[GpuProgress, ...]) -> Progress:
    """With these GPUs, and what follows for the node."""
    trouble = next((gpu.trouble for gpu in found if gpu.trouble), None)
    return replace(progress, state=node_state(found), gpus=found, trouble=trouble)


def document(progress: Progress) -> dict[str, Any]:
    """The JSON form; see docs/partitioning.md."""
    return {
        "state": progress.state.value,
        "configuration": progress.configuration or None,
        "source": progress.source.value if progress.source else None,
        "inUsePolicy": progress.policy.value,
        "since": progress.since,
        "order": progress.order,
        "id": progress.id or None,
        "reason": _reason(progress.trouble),
        "warnings": list(progress.warnings),
        "notes": list(progress.notes),
        "seconds": progress.seconds,
        "gpus": [
            {
                "index": gpu.index,
                "uuid": gpu.uuid,
                "state": gpu.state.value,
                "wanted": str(gpu.wanted) if gpu.wanted and gpu.wanted.known else None,
                "reason": _reason(gpu.trouble),
                "waitsFor": [
                    {
                        "device": each.path,
                        "uuid": each.uuid,
                        "holders": [holder.name for holder in each.holders],
                    }
                    for each in gpu.blockers
                ],
                "steps": {"done": gpu.done, "total": gpu.total},
            }
            for gpu in progress.gpus
        ],
    }


def _reason(trouble: Trouble | None) -> dict[str, str] | None:
    return {"code": trouble.code.value, "text": trouble.text} if trouble is not None else None
