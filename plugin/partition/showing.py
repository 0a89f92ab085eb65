"""How far partitioning is, as it changes; and the log's lines about it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from plugin.core.inventory.model import Inventory
from plugin.core.partition.configuration import Resolved
from plugin.core.partition.node import Decision, NodePlan
from plugin.core.partition.order import Order
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import (
    GpuProgress,
    GpuState,
    Progress,
    State,
    gpus,
    of_gpus,
    tracked,
)
from plugin.core.partition.steps import KINDS, Step
from plugin.core.partition.tracks import Result, Run
from plugin.core.partition.trouble import Trouble
from plugin.loops.pulse import Pulse

log = logging.getLogger(__name__)

CANCELLED = "it is cancelled: the GPU in hand is finished, or gets back what it had"


class Shown:
    """Owns the value. Used from the event loop only."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.changed = Pulse()
        self._steps: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._ordered = self._entered = 0.0
        #: The order that was applied last, and how long that took at first.
        self._timed, self._took = -1, 0.0
        self._current = ""
        #: The order that the GPUs shown are of, and what was added to a round's notes.
        self._planned = 0
        self._note = ""
        #: What keeps the node as a whole from what could be done, since nothing was done.
        self._obstacle: Trouble | None = None

    def ordered(self, order: Order | None, policy: Policy, *, new: bool = True) -> None:
        if order is None:
            if self.progress.state is State.APPLYING:
                self.note(CANCELLED)
            return  # idle when that is so
        number = self.progress.order + new
        self._ordered, self._note, self._obstacle = _now(), "", None
        log.info(
            "configuration wanted",
            extra={"configuration": order.name, "source": order.source, "in_use": policy},
        )
        self._set(
            Progress(
                State.PENDING,
                order.name,
                order.source,
                policy,
                order=number,
                id=order.id,
                counts=self.progress.counts,
            )
        )

    def idle(self) -> None:
        before = self.progress
        self._set(Progress(State.IDLE, order=before.order, counts=before.counts))

    def stopped(self) -> None:
        """Nothing more is done by this process."""
        if self.progress.state is State.APPLYING:
            self._set(replace(self.progress, state=State.PENDING))

    def pending(self, trouble: Trouble, *, known: bool = True) -> None:
        """`known` is whether it is known what is wanted."""
        if known:
            self._kept_from(trouble, State.PENDING)
        else:
            self._set(replace(self.progress, state=State.PENDING, trouble=trouble))

    def waiting(self, trouble: Trouble) -> None:
        self._obstacle = trouble
        self._kept_from(trouble, State.WAITING)

    def _kept_from(self, trouble: Trouble, state: State) -> None:
        if self.progress.configuration:  # else nothing is wanted
            self._set(replace(self.progress, state=state, trouble=trouble))

    def refused(self, trouble: Trouble) -> None:
        self._set(replace(self.progress, state=State.FAILED, trouble=trouble, gpus=()))

    def note(self, text: str) -> None:
        """Keep something in mind that is worth knowing in this order's further rounds too."""
        if text != self._note:
            others = (each for each in self.progress.notes if each != self._note)
            self._note = text
            self._set(replace(self.progress, notes=(*others, text) if text else tuple(others)))

    def planned(
        self,
        plan: NodePlan,
        run: Run,
        wanted: Resolved,
        inventory: Inventory,
        notes: Sequence[str],
    ) -> None:
        """What a round has found."""
        found = gpus(plan, run, wanted.wanted, {gpu.uuid: gpu.index for gpu in inventory.gpus})
        new = of_gpus(self.progress, found)
        if new.state is not State.APPLYING:
            self._obstacle = None
        elif self._obstacle is not None:
            new = replace(new, state=State.WAITING, trouble=self._obstacle)
        self._set(
            replace(
                new,
                policy=plan.policy,
                warnings=wanted.warnings,
                notes=(*notes, self._note) if self._note else tuple(notes),
            )
        )
        self._planned = self.progress.order

    def begins(self, decision: Decision) -> None:
        self._obstacle = None
        if decision.blockers:  # by force
            log.warning(
                "destroying devices in use",
                extra={"gpu": decision.gpu.uuid, "reason": "; ".join(map(str, decision.blockers))},
            )
        total = len(decision.plan.steps) if decision.plan is not None else 0
        self._gpu(decision.gpu.uuid, state=GpuState.APPLYING, done=0, total=total, trouble=None)
        self._current = decision.gpu.uuid

    def stepped(self, step: Step, done: bool) -> None:  # noqa: FBT001 — a callback
        kind = KINDS[type(step)]
        self._steps[kind] += 1
        self._failures[kind] += not done
        counts = replace(
            self.progress.counts, steps=dict(self._steps), failures=dict(self._failures)
        )
        self.progress = replace(self.progress, counts=counts)
        for gpu in self.progress.gpus if done else ():
            if gpu.uuid == self._current:
                self._gpu(gpu.uuid, done=gpu.done + 1)

    def ended(self, results: Iterable[Result], run: Run, plan: NodePlan) -> None:
        """GPUs that were changed, and what became of them."""
        back = {each.gpu.uuid for each in plan.decisions if each.back}
        counts = self.progress.counts
        for result in results:
            track = run.tracks.get(result.gpu.uuid)
            done = GpuState.ROLLED_BACK if result.gpu.uuid in back else GpuState.APPLIED
            state = done if track is None else tracked(track)
            again = state is GpuState.ROLLED_BACK or (track is not None and track.restored)
            counts = replace(
                counts,
                applied=counts.applied + (state is GpuState.APPLIED),
                rolled_back=counts.rolled_back + again,
                failed=counts.failed + (state is GpuState.FAILED),
            )
            self._gpu(result.gpu.uuid, state=state, trouble=track.trouble if track else None)
        self._set(replace(self.progress, counts=counts))
        # Not of an order that came meanwhile, or is refused.
        if self.progress.order == self._planned and self.progress.gpus:
            self._set(of_gpus(self.progress, self.progress.gpus))

    def _gpu(self, uuid: str, **changes: object) -> None:
        found = tuple(
            replace(gpu, **changes) if gpu.uuid == uuid else gpu for gpu in self.progress.gpus
        )
        self._set(replace(self.progress, gpus=found))

    def _set(self, new: Progress) -> None:
        old = self.progress
        if new == old:
            return
        if new.state is not old.state or new.order != old.order:
            new = self._entering(old, new)
        self.progress = new
        _report(old, new)
        self.changed.fire()

    def _entering(self, old: Progress, new: Progress) -> Progress:
        now = _now()
        lasted, self._entered = now - self._entered, now
        counts = new.counts
        if old.state is State.WAITING:
            counts = replace(counts, waiting_seconds=counts.waiting_seconds + lasted)
        elif old.state is State.APPLYING:
            counts = replace(counts, applying_seconds=counts.applying_seconds + lasted)
        if new.state is State.SUCCESS and self._timed != new.order:
            self._timed, self._took = new.order, now - self._ordered
        seconds = self._took if new.state is State.SUCCESS else None
        return replace(new, since=time.time(), counts=counts, seconds=seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _report(old: Progress, new: Progress) -> None:
    before = {gpu.uuid: gpu for gpu in old.gpus} if old.order == new.order else {}
    for gpu in new.gpus:
        was = before.get(gpu.uuid)
        if was is None or (was.state, was.trouble) != (gpu.state, gpu.trouble):
            _report_gpu(new, gpu, was)
    if new.state is old.state and new.order == old.order and new.trouble == old.trouble:
        return
    extra = {"configuration": new.configuration}
    reason = new.trouble.text if new.trouble is not None else ""
    match new.state:
        case State.SUCCESS:
            seconds = None if new.seconds is None else round(new.seconds, 3)
            log.info("configuration applied", extra={**extra, "seconds": seconds})
        case State.FAILED:
            log.error("configuration not applied", extra={**extra, "reason": reason})
        case State.RESET_NEEDED:
            log.warning("configuration waits for a reset or a reboot", extra=extra)
        case State.PENDING if reason and not new.configuration:
            log.warning("which configuration is wanted is not known", extra={"reason": reason})
        case State.PENDING if reason:
            log.warning("configuration cannot be applied now", extra={**extra, "reason": reason})
        case State.IDLE if old.configuration and old.state is not State.IDLE:
            log.info("no configuration is wanted any more")


def _report_gpu(new: Progress, gpu: GpuProgress, was: GpuProgress | None) -> None:
    extra = {"configuration": new.configuration, "gpu": gpu.uuid}
    reason = {"reason": gpu.trouble.text} if gpu.trouble is not None else {}
    match gpu.state:
        case GpuState.APPLYING:
            log.info("partitioning a GPU", extra={**extra, "steps": gpu.total})
        case GpuState.APPLIED if was is not None and was.state is not GpuState.PENDING:
            log.info("a GPU is partitioned", extra=extra)
        case GpuState.WAITING | GpuState.HELD:
            log.info("partitioning a GPU waits", extra={**extra, **reason})
        case GpuState.RETRYING | GpuState.ROLLING_BACK:
            log.warning(
                "partitioning a GPU failed, trying on",
                extra={**extra, **reason, "state": gpu.state.value},
            )
        case GpuState.ROLLED_BACK:
            log.error("a GPU was rolled back", extra={**extra, **reason})
        case GpuState.FAILED | GpuState.REFUSED:
            log.error("a GPU cannot be partitioned", extra={**extra, **reason})
        case GpuState.RESET_NEEDED:
            log.warning("a GPU waits for a reset or a reboot", extra={**extra, **reason})
