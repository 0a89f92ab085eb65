"""Brings the node to the wanted configuration, round by round.

A round asks who uses what, makes a plan for the newest inventory, and does the one thing that
:func:`plugin.core.partition.run.assess` says. A new order is taken up after the step in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from plugin.core.advertise.withdrawal import NO_WITHDRAWAL, Withdrawal
from plugin.core.inventory.model import Inventory
from plugin.core.partition import refusal, withdrawing
from plugin.core.partition import run as runs
from plugin.core.partition.configuration import Resolved
from plugin.core.partition.node import Action, Decision, NodePlan, plan_node
from plugin.core.partition.order import Order
from plugin.core.partition.planner import InUse
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import GpuState, Progress
from plugin.core.partition.refusal import InTheWay, Refused
from plugin.core.partition.run import Change, Rest, Withdraw
from plugin.core.partition.steps import RefusalCode
from plugin.core.partition.tracks import Before, Run
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.partition.trouble import trouble as of_error
from plugin.core.partition.usual import silent
from plugin.core.state import Snapshot
from plugin.driver.base import Driver
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import ConfigError, DriverError, DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.pulse import Pulse
from plugin.partition.changing import Changing
from plugin.partition.course import Course
from plugin.partition.file import ConfigurationFile
from plugin.partition.keeping import InThread, Keeper
from plugin.partition.meaning import Meaning
from plugin.partition.showing import Shown
from plugin.partition.stepping import Stepper
from plugin.partition.surroundings import Surroundings, out_of_reach, planned_from, who_uses
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

#: Between two rounds that must agree, and after kubelet was told: an Allocate that was answered
#: before that is in what kubelet lists by then, or in what we remember of our own answers.
GRACE_SECONDS = 0.05
#: Between two rounds that wait for devices in use.
POLL_SECONDS = 2.0
#: Between two attempts to save what is wanted where there is nothing else to do.
SAVE_AGAIN_SECONDS = 5.0

_TRYING = frozenset({GpuState.RETRYING, GpuState.ROLLING_BACK})


class Executor:
    """Does nothing without an order. Used from the event loop only."""

    def __init__(
        self,
        writer: Writer,
        driver: Driver,
        worker: DriverWorker,
        keeper: Keeper,
        around: Surroundings,
        *,
        of_file: ConfigurationFile | None = None,
        in_thread: InThread | None = None,
    ) -> None:
        """`in_thread` reads `of_file` beside the event loop."""
        self._writer, self._driver, self._worker = writer, driver, worker
        self._keeper, self._around = keeper, around
        file, in_thread = of_file or ConfigurationFile(""), in_thread or keeper.in_thread
        self._meaning = Meaning(driver, worker, keeper, file, in_thread)
        self._course = Course()
        self._run = Run()
        self._lease = 0
        self._wake = asyncio.Event()
        self._settled = self._was_away = False
        #: The generation that kubelet must know before anything is destroyed.
        self._owed: int | None = None
        self.shown = Shown()
        self._stepper = Stepper(driver, worker, self.shown.stepped, self._course.extent)
        #: Fires with every round that has ended.
        self.rounds = Pulse()

    @property
    def progress(self) -> Progress:
        return self.shown.progress

    @property
    def order(self) -> Order | None:
        """What is wanted."""
        return self._course.newest

    @property
    def at_rest(self) -> bool:
        """The last round has taken up the newest order, and left nothing to do at once."""
        return self._settled

    def want(self, order: Order | None, *, new: bool = True) -> int:
        """Take an order in place of the one before, or none; returns its number. It is not `new`
        if it was given before this process began.
        """
        self._course.newest, self._settled = order, False
        self.shown.ordered(order, self._policy(order), new=new)
        self._wake.set()
        return self.progress.order

    def stop(self) -> None:
        """Begin no other GPU; the one in hand is finished, or gets back what it had. What is wanted
        stays so.
        """
        self._course.stops, self._settled = True, False
        self._wake.set()

    def look_again(self) -> None:
        """Have a round now: what the order means may be something else."""
        self._wake.set()

    async def run(self, heartbeats: Heartbeats) -> None:
        """Work until cancelled."""
        following = asyncio.create_task(self._follow(), name="geometry for partitioning")
        try:
            while True:
                heartbeats.beat("partition", LONGEST_JOB_SECONDS)
                pause = await self.round()
                if pause is None:
                    heartbeats.done("partition")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until nothing more can be done at once: all is done, or waits for others."""
        while not self._settled:
            await self.rounds.wait()

    async def _follow(self) -> None:
        """Wake up when there is something new to plan from."""
        known: object = None
        async for snapshot in self._writer.store.follow():
            seen = planned_from(snapshot)
            if seen != known:
                known = seen
                self._wake.set()

    # ---- one round

    async def round(self) -> float | None:
        """One round; returns how long to rest, ``None`` for until something happens."""
        self._wake.clear()
        pause = await self._round()
        trying = any(gpu.state in _TRYING for gpu in self.progress.gpus)
        rests = pause is None or (pause > GRACE_SECONDS and not trying)
        self._settled = self._course.is_current and rests and self._keeper.known
        self.rounds.fire()
        return pause

    async def _round(self) -> float | None:
        if self._course.take():
            self._run = runs.anew(self._run)
        order, keeper = self._course.taken, self._keeper
        left = self._run.half or keeper.memory.changing or keeper.silence
        if keeper.known and order is None and not left:
            self._run = Run()
            self._writer.withdraw(NO_WITHDRAWAL)
            self.shown.idle()
            return await self._held({})
        if (problem := await keeper.claim()) is not None:
            return self._unclaimed(problem)
        snapshot = self._writer.store.snapshot
        if (away := self._away(snapshot)) is not None:
            self.shown.pending(away)
            return None
        if self._keeper.lease != self._lease:
            self._lease = self._keeper.lease
            left = {**self._keeper.memory.changing, **self._run.half}
            self._run = replace(self._run, half=left)
        if not self._course.is_current:
            return 0.0
        if order is not None and self._course.is_to_be_done:
            return await self._resolved(order, snapshot.inventory)
        show = self.shown.idle if order is None else self.shown.stopped
        return await self._bring_back("" if order is None else order.name, show)

    def _unclaimed(self, problem: Trouble) -> float:
        """Nothing can be changed. Where another process does that, what has left service stays
        out of it.
        """
        if problem.code is not Code.BUSY:
            self._writer.withdraw(withdrawing.unchanging(self._run))
        if self._course.taken is None and self._keeper.known and not self._run.half:
            self.shown.idle()
        else:
            self.shown.pending(problem, known=self._keeper.known)
        return POLL_SECONDS

    def _away(self, snapshot: Snapshot) -> Trouble | None:
        """Why the driver cannot be asked now."""
        if (why := out_of_reach(snapshot)) is not None:
            self._was_away = True
            return Trouble(Code.DRIVER_UNAVAILABLE, why)
        if self._was_away:
            self._was_away = False
            self._run = runs.reopened(self._run)
        return None

    async def _resolved(self, order: Order, inventory: Inventory) -> float | None:
        try:
            wanted = await self._meaning.resolve(order, inventory)
        except ConfigError as error:
            refused = Trouble(Code.UNKNOWN_CONFIGURATION, str(error))
            return await self._bring_back(order.name, lambda: self.shown.refused(refused))
        except TimeoutError as error:  # of the file
            self.shown.pending(Trouble(Code.NOT_ANSWERING, str(error)))
            return POLL_SECONDS
        except DriverError as error:
            self.shown.pending(of_error(error))
            return POLL_SECONDS
        return await self._towards(wanted)

    def _policy(self, order: Order | None) -> Policy:
        given = order.policy if order is not None else None
        return given or self._writer.store.snapshot.settings.partition_in_use

    async def check(self, order: Order) -> None:
        """Raises :class:`~plugin.errors.ConfigError` if no such configuration is known, and
        :class:`~plugin.errors.DriverError` if the driver does not say.
        """
        await self._meaning.choose(order, self._writer.store.snapshot.inventory)

    async def _bring_back(self, name: str, show: Callable[[], None]) -> float | None:
        """Where no configuration is known that is wanted: what is there stays, but for what is
        half-made.
        """
        if self._run.half:
            try:
                await self._meaning.ask_offers(self._writer.store.snapshot.inventory)
            except DriverUnavailable:
                show()
                return POLL_SECONDS
            return await self._towards(Resolved(name, {}), show)
        self._writer.withdraw(NO_WITHDRAWAL)
        show()
        return await self._held({})

    async def _held(
        self, half: Mapping[str, Before], in_the_way: InTheWay = refusal.NOTHING
    ) -> float | None:
        """Only these GPUs are half-made, and this has ended the order; returns when to save that
        again.
        """
        order = self._course.taken
        refused = Refused(order.key, in_the_way) if order is not None and in_the_way else None
        await self._keeper.holds(half, refused)
        again = self._keeper.unsaved or self._keeper.silence
        return SAVE_AGAIN_SECONDS if again else None

    async def _towards(
        self, wanted: Resolved, show: Callable[[], None] | None = None
    ) -> float | None:
        """With `show`, that is shown instead of what is planned, when there is nothing to do."""
        inventory = self._writer.store.snapshot.inventory
        named = {*wanted.wanted, *self._run.half}
        used, notes = await who_uses(self._around, self._driver, self._worker, inventory, named)
        if not self._course.is_current:
            return 0.0
        # It may have changed meanwhile.
        snapshot = self._writer.store.snapshot
        inventory = snapshot.inventory
        published = replace(self._run, withdrawal=snapshot.withdrawal)
        now = asyncio.get_running_loop().time()
        self._run = runs.current(published, inventory, wanted.wanted, now)
        target, half = runs.targets(wanted, self._run)
        order, known = self._course.taken, self._keeper.memory.refused
        policy, mode = self._policy(order), snapshot.settings.partition_mig_mode
        refused = refusal.in_force(known, order, policy, inventory)
        offers = self._meaning.offers
        plan = plan_node(inventory, offers, target, used, policy, half, refused, mig_mode=mode)
        self._run, action = runs.assess(self._run, plan, now)
        if show is None:
            self.shown.planned(plan, self._run, wanted, inventory, notes)
        elif isinstance(action, Rest) and action.until is None:
            show()
        again = await self._held(self._run.half, refused or refusal.of_plan(plan))
        if isinstance(action, Rest):
            return await self._rest(plan, action, again)
        if isinstance(action, Withdraw):
            return await self._withdraw(action.withdrawal)
        if self._owed is not None:
            return await self._tell()
        if not isinstance(action, Change):
            return GRACE_SECONDS
        return await self._change(plan, action.decisions, used)

    async def _withdraw(self, withdrawal: Withdrawal) -> float:
        if withdrawal.leaving and (problem := await self._keeper.ready()):
            return self._unsaved(problem)
        self._writer.withdraw(withdrawal)
        if not withdrawal.leaving:
            return 0.0
        self._owed = self._writer.store.snapshot.generation
        return await self._tell()

    async def _tell(self) -> float:
        """Have kubelet know which devices are out of service; what is asked before it does proves
        nothing.
        """
        self._run = replace(self._run, agreed=0)
        if self._owed is not None and not await self._around.told(self._owed):
            text = "kubelet has not taken the list without the devices that will be destroyed"
            self.shown.waiting(Trouble(Code.KUBELET_NOT_TOLD, text))
            return POLL_SECONDS
        self._owed = None
        return GRACE_SECONDS

    async def _rest(self, plan: NodePlan, action: Rest, again: float | None) -> float | None:
        evicting = plan.of(Action.EVICT)
        if plan.policy is Policy.EVICT and plan.of(Action.EVICT, Action.WAIT):
            pods = sorted({pod for each in evicting for pod in each.evictable})
            if self._around.evictor is None:
                note = "pods cannot be evicted here: there is no access to the API server"
            else:
                note = await self._around.evictor.evict(pods)
            self.shown.note(note)
        now = asyncio.get_running_loop().time()
        pauses = [POLL_SECONDS] if action.waits else []
        if again is not None:
            pauses.append(again)
        inventory = self._writer.store.snapshot.inventory
        if any(not gpu.hung for gpu in silent(inventory, self._meaning.offers)):
            pauses.append(runs.DRIVER_PAUSE)
        if any(each.code is RefusalCode.UNSETTLED for each in plan.decisions):
            self._writer.rescan()
            pauses.append(runs.DRIVER_PAUSE)
        if action.until is not None:
            pauses.append(max(0.0, action.until - now))
        return min(pauses, default=None)

    async def _change(self, plan: NodePlan, decisions: Sequence[Decision], used: InUse) -> float:
        if problem := await self._keeper.begins(each.gpu for each in decisions):
            return self._unsaved(problem)
        changing = Changing(
            self._writer,
            self._stepper,
            self.shown,
            self._course.extent,
            self._keeper.memory.changing,
            plan,
            self._run,
            self._meaning.offers,
            used,
        )
        await changing.carry_out(decisions)
        self._run = changing.run
        await self._keeper.holds(self._run.half, self._keeper.memory.refused)
        return 0.0

    def _unsaved(self, problem: str) -> float:
        self._writer.withdraw(withdrawing.unchanging(self._run))
        self.shown.waiting(Trouble(Code.NOT_SAVED, problem))
        return POLL_SECONDS
