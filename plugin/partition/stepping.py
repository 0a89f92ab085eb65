"""Carries out the plan of one GPU: one step after another, each followed by a look."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Gpu
from plugin.core.partition.node import Decision
from plugin.core.partition.planner import InUse, plan_gpu
from plugin.core.partition.policy import Policy
from plugin.core.partition.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Plan,
    RefusalCode,
    ResetNeeded,
    Step,
    SwitchMode,
)
from plugin.core.partition.tracks import Result, shape
from plugin.core.partition.trouble import Code, Trouble, instance_at, took_effect, trouble
from plugin.driver.base import Driver
from plugin.driver.worker import DriverWorker
from plugin.errors import DriverError, OutcomeUnknown
from plugin.partition.course import Extent

log = logging.getLogger(__name__)


class Assignment(Struct, frozen=True):
    """What is to be done to a GPU. ``released`` are the devices that left service. ``mig_mode``:
    MIG mode may be switched.
    """

    decision: Decision
    offers: Sequence[ProfileOffer]
    in_use: InUse
    policy: Policy
    released: Collection[str]
    mig_mode: bool = True


class Stepper:
    """Uses the driver's worker; every change at most once."""

    def __init__(
        self,
        driver: Driver,
        worker: DriverWorker,
        on_step: Callable[[Step, bool], None],
        extent: Callable[[], Extent],
    ) -> None:
        """`on_step` hears of every step and whether it took effect; `extent` is asked before
        each.
        """
        self._driver, self._worker = driver, worker
        self._on_step, self._extent = on_step, extent

    async def carry_out(self, given: Assignment) -> Result:
        decision = given.decision
        try:
            gpu = await self._look(decision.gpu.uuid)
        except DriverError as failed:
            return Result(decision.gpu, trouble(failed))
        result = Result(gpu)
        plan = _planned(gpu, given)
        if isinstance(plan, Trouble):
            return replace(result, trouble=plan)
        for step in plan.steps:
            if self._extent() is Extent.STEP:
                return replace(result, interrupted=True)
            result = await self._one(result, step)
            if result.trouble is not None:
                break
        return result

    async def _one(self, before: Result, step: Step) -> Result:
        """One step and a look."""
        error = await self._change(before.gpu, step)
        try:
            gpu = await self._look(before.gpu.uuid)
        except DriverError as failed:
            # What cannot be seen may have happened.
            self._on_step(step, False)  # noqa: FBT003 — a callback
            return replace(before, trouble=trouble(failed), touched=True)
        done = took_effect(step, before.gpu, gpu) and (
            error is None or isinstance(error, OutcomeUnknown)
        )
        self._on_step(step, done)
        after = replace(before, gpu=gpu, touched=before.touched or shape(gpu) != shape(before.gpu))
        if not done:
            return replace(after, trouble=_why(gpu, step, error))
        if isinstance(step, SwitchMode) and gpu.mig_pending:
            return replace(after, trouble=_reset(gpu, ResetNeeded(step.on)))
        return after

    async def _look(self, uuid: str) -> Gpu:
        return await self._worker.call(self._driver.look, uuid)

    async def _change(self, gpu: Gpu, step: Step) -> DriverError | None:
        log.debug("partitioning step", extra={"gpu": gpu.uuid, "step": str(step)})
        verb = self._verb(gpu, step)
        if verb is None:
            return OutcomeUnknown(f"{step}: its GPU instance is not there", code=-1)
        try:
            await self._worker.change(verb)
        except DriverError as error:
            return error
        return None

    def _verb(self, gpu: Gpu, step: Step) -> Callable[[], Any] | None:
        driver, uuid = self._driver, gpu.uuid
        match step:
            case SwitchMode():
                return functools.partial(driver.set_mig_mode, uuid, on=step.on)
            case DestroyComputeInstance():
                return functools.partial(driver.destroy_compute_instance, uuid, step.gi, step.ci)
            case DestroyGpuInstance():
                return functools.partial(driver.destroy_gpu_instance, uuid, step.gi)
            case CreateGpuInstance():
                return functools.partial(
                    driver.create_gpu_instance, uuid, step.profile_id, step.placement
                )
            case CreateComputeInstance():
                gi = instance_at(gpu, step)
                if gi is None:
                    return None
                return functools.partial(driver.create_compute_instance, uuid, gi, step.slices)


def _planned(gpu: Gpu, given: Assignment) -> Plan | Trouble:
    """The plan as of now, which must not destroy what has not left service."""
    wanted, mode = given.decision.wanted, given.mig_mode
    outcome = plan_gpu(gpu, given.offers, wanted, given.in_use, mig_mode=mode)
    if isinstance(outcome, ResetNeeded):
        return _reset(gpu, outcome)
    if not isinstance(outcome, Plan):
        forced = given.policy is Policy.FORCE and outcome.code is RefusalCode.IN_USE
        if not forced or outcome.after is None:
            return Trouble(Code(outcome.code), outcome.text)
        outcome = outcome.after
    others = frozenset(outcome.leaving) - frozenset(given.released)
    if others:
        return Trouble(
            Code.STEP_FAILED, f"GPU {gpu.index} has changed: {min(others)} has not left service"
        )
    return outcome


def _why(gpu: Gpu, step: Step, error: DriverError | None) -> Trouble:
    if error is None:
        text = f"GPU {gpu.index}: {step}: the driver reports success, and nothing has changed"
        return Trouble(Code.STEP_FAILED, text)
    found = trouble(error)
    if found.code is Code.IN_USE:
        text = (
            f"GPU {gpu.index}: {error}; by a process that is not known here: the driver names only "
            "those of our PID namespace, and no monitoring agents"
        )
        return Trouble(Code.IN_USE, text)
    # What was looked at since answers.
    alive = found.code in {Code.GPU_LOST, Code.DRIVER_UNAVAILABLE} and not gpu.error
    return Trouble(Code.STEP_FAILED if alive else found.code, f"GPU {gpu.index}: {found.text}")


def _reset(gpu: Gpu, needed: ResetNeeded) -> Trouble:
    return Trouble(Code.RESET_NEEDED, f"GPU {gpu.index}: {needed.text}")
