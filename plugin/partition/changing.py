"""Changes GPUs one after another, reads them back, and advertises what is right in one message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.partition import run as runs
from plugin.core.partition import withdrawing
from plugin.core.partition.comparison import differences
from plugin.core.partition.configuration import Resolved
from plugin.core.partition.node import Decision, NodePlan
from plugin.core.partition.planner import InUse
from plugin.core.partition.policy import Policy
from plugin.core.partition.tracks import Before, Result, Run
from plugin.core.partition.trouble import Code, Trouble, trouble
from plugin.core.state import Snapshot
from plugin.errors import DriverUnavailable
from plugin.partition.course import Extent
from plugin.partition.showing import Shown
from plugin.partition.stepping import Assignment, Stepper
from plugin.state.writer import Look, Writer

#: GPUs that are done are not advertised later than this because others take their time.
PUBLISH_SECONDS = 1.0


class Changing(Struct):
    """One pass over GPUs that change now. ``before`` is what they had, ``run`` what is remembered
    behind it. ``extent`` is asked before each GPU.
    """

    writer: Writer
    stepper: Stepper
    shown: Shown
    extent: Callable[[], Extent]
    before: Mapping[str, Before]
    plan: NodePlan
    run: Run
    offers: Mapping[str, Sequence[ProfileOffer]]
    used: InUse
    _done: list[str] = field(default_factory=list)

    async def carry_out(self, decisions: Sequence[Decision]) -> None:
        loop = asyncio.get_running_loop()
        self.writer.withdraw(withdrawing.meanwhile(self.run, self.plan, decisions, ()))
        results: list[Result] = []
        published = loop.time()
        async with self.writer.between_scans([each.gpu.uuid for each in decisions]) as look:
            for number, decision in enumerate(decisions):
                if (extent := self.extent()) is Extent.STEP:
                    await self._interrupted(look, results)
                    return
                if extent is Extent.GPU:
                    break
                self.shown.begins(decision)
                result = await self.stepper.carry_out(self._assigned(decision))
                results.append(result)
                if result.interrupted:
                    await self._interrupted(look, results)
                    return
                self._done.append(decision.gpu.uuid)
                rest = decisions[number + 1 :]
                late = loop.time() - published > PUBLISH_SECONDS
                if rest and (result.trouble is not None or late):
                    await self._publish(look, results, rest)
                    results, published = [], loop.time()
            await self._publish(look, results, ())

    async def _interrupted(self, look: Look, results: Sequence[Result]) -> None:
        """Another order came: what it wants is planned from what is there now."""
        now = asyncio.get_running_loop().time()
        self.run = runs.ended(self.run, results, self.before, now)
        with contextlib.suppress(DriverUnavailable):
            await look()

    def _assigned(self, decision: Decision) -> Assignment:
        uuid = decision.gpu.uuid
        released = withdrawing.leaving(decision)
        policy = Policy.WAIT if decision.back else self.plan.policy
        offers, mode = self.offers.get(uuid, ()), self.plan.mig_mode
        return Assignment(decision, offers, self.used, policy, released, mode)

    async def _publish(
        self, look: Look, results: Sequence[Result], rest: Sequence[Decision]
    ) -> None:
        now = asyncio.get_running_loop().time()
        try:
            snapshot = await look()
        except DriverUnavailable as error:
            self.writer.rescan()
            why = trouble(error)
            checked = [replace(each, trouble=each.trouble or why, touched=True) for each in results]
        else:
            # From here to the message nothing waits: the scan and what it means are one.
            checked = [self._compared(each, snapshot) for each in results]
        self.run = runs.ended(self.run, checked, self.before, now)
        if rest:
            withdrawal = withdrawing.meanwhile(self.run, self.plan, rest, self._done)
        else:
            withdrawal = withdrawing.withdrawal(self.run, self.plan, self._done)
        self.writer.withdraw(withdrawal)
        self.shown.ended(checked, self.run, self.plan)

    def _compared(self, result: Result, snapshot: Snapshot) -> Result:
        gpu = snapshot.inventory.gpu(result.gpu.uuid)
        if gpu is None:
            return replace(result, trouble=result.trouble or Trouble(Code.GPU_LOST, "it is gone"))
        result = replace(result, gpu=gpu)
        if result.trouble is not None:
            return result
        target = next(each.wanted for each in self.plan.decisions if each.gpu.uuid == gpu.uuid)
        alone = Resolved(self.plan.name, {gpu.uuid: target})
        for difference in differences(snapshot.inventory, alone).values():
            text = f"GPU {gpu.index}: read back: {difference}"
            return replace(result, trouble=Trouble(Code.STEP_FAILED, text), touched=True)
        return result
