"""Brings the node to the wanted configuration, round by round.

A round asks who uses what, makes a plan for the newest inventory, and does the one thing that
:func:`plugin.core.partition.run.assess` says. A new order is taken up after the step in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from plugin.core.advertise.withdrawal import NO_WITHDRAWAL
from plugin.core.inventory.geometry import ProfileOffer
from plugin.core.inventory.model import Inventory
from plugin.core.partition import run as runs
from plugin.core.partition.configuration import Configuration, Resolved, resolve
from plugin.core.partition.node import Action, Decision, NodePlan, plan_node
from plugin.core.partition.order import Order
from plugin.core.partition.planner import InUse
from plugin.core.partition.policy import Policy
from plugin.core.partition.progress import GpuState, Progress
from plugin.core.partition.run import Change, Rest, Run, Withdraw
from plugin.core.partition.trouble import Code, Trouble
from plugin.core.partition.trouble import trouble as of_error
from plugin.core.partition.use import in_use
from plugin.core.partition.usual import named, silent
from plugin.core.release import describe
from plugin.core.state import Snapshot
from plugin.driver.base import Driver
from plugin.driver.worker import LONGEST_JOB_SECONDS, DriverWorker
from plugin.errors import ConfigError, DriverError, DriverUnavailable
from plugin.loops.heartbeats import Heartbeats
from plugin.loops.pulse import Pulse
from plugin.partition.changing import Changing
from plugin.partition.keeping import Keeper
from plugin.partition.showing import Shown
from plugin.partition.stepping import Stepper
from plugin.partition.surroundings import Surroundings, ask_clients
from plugin.state.writer import Writer

log = logging.getLogger(__name__)

#: Between two rounds that must agree, and after kubelet was told: an Allocate that was answered
#: before that is in what kubelet lists by then, or in what we remember of our own answers.
GRACE_SECONDS = 0.05
#: Between two rounds that wait for devices in use.
POLL_SECONDS = 2.0

_TRYING = frozenset({GpuState.RETRYING, GpuState.ROLLING_BACK})

Configurations = Callable[[], Mapping[str, Configuration]]


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
        of_file: Configurations = lambda: MappingProxyType({}),
    ) -> None:
        """`of_file` reads the configurations of the node's file, and blocks; it raises
        ConfigError.
        """
        self._writer, self._driver, self._worker = writer, driver, worker
        self._keeper, self._around = keeper, around
        self._of_file = of_file
        self._order: Order | None = None
        self._taken: Order | None = None
        self._run = Run()
        self._named: Configuration | None = None
        self._offers: dict[str, Sequence[ProfileOffer]] = {}
        self._wake = asyncio.Event()
        self._settled = self._was_away = False
        #: The generation that kubelet must know before anything is destroyed.
        self._owed: int | None = None
        self.shown = Shown()
        self._stepper = Stepper(driver, worker, self.shown.stepped, goes_on=self._goes_on)
        #: Fires with every round that has ended.
        self.rounds = Pulse()

    @property
    def progress(self) -> Progress:
        return self.shown.progress

    @property
    def order(self) -> Order | None:
        """What is wanted."""
        return self._order

    @property
    def at_rest(self) -> bool:
        """The last round has taken up the newest order, and left nothing to do at once."""
        return self._settled

    def want(self, order: Order | None) -> int:
        """Take an order in place of the one before, or none; returns its number."""
        self._order, self._settled = order, False
        self.shown.ordered(order, self._policy(order))
        self._wake.set()
        return self.progress.order

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
        """Wake up when the geometry is another one, or the driver answers again."""
        known: object = None
        async for snapshot in self._writer.store.follow():
            seen = (
                snapshot.driver_error is None and snapshot.release is None,
                [runs.shape(gpu) for gpu in snapshot.inventory.gpus],
            )
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
        self._settled = self._order is self._taken and rests
        self.rounds.fire()
        return pause

    async def _round(self) -> float | None:
        snapshot = self._writer.store.snapshot
        if self._order is not self._taken:
            self._taken = self._order
            now = asyncio.get_running_loop().time()
            self._run, self._named = runs.anew(self._run, now), None
            # What a GPU said that does not answer now still holds: else the usual configurations
            # would leave it out.
            silent = {gpu.uuid for gpu in snapshot.inventory.gpus if gpu.hung or gpu.error}
            self._offers = {u: said for u, said in self._offers.items() if u in silent}
        order = self._taken
        if order is None:
            self._writer.withdraw(NO_WITHDRAWAL)
            self.shown.idle()
            return None
        problem = self._keeper.claim()
        if problem is not None:
            self.shown.pending(problem)
            return POLL_SECONDS
        if (why := _out_of_reach(snapshot)) is not None:
            self.shown.pending(Trouble(Code.DRIVER_UNAVAILABLE, why))
            self._was_away = True
            return None
        if self._was_away:
            self._was_away = False
            self._run = runs.reopened(self._run, asyncio.get_running_loop().time())
        try:
            wanted = await self._wanted(order, snapshot.inventory)
        except ConfigError as error:
            self._writer.withdraw(NO_WITHDRAWAL)
            self.shown.refused(Trouble(Code.UNKNOWN_CONFIGURATION, str(error)))
            return None
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
        await self._choose(order, self._writer.store.snapshot.inventory)

    async def _wanted(self, order: Order, inventory: Inventory) -> Resolved:
        if self._named is not None:
            await self._ask_offers(inventory)
            return resolve(self._named, inventory)
        found = await self._choose(order, inventory)
        if not silent(inventory, self._offers) and not inventory.unreadable:
            self._named = found  # else it is named anew once such a GPU answers
        return resolve(found, inventory)

    async def _choose(self, order: Order, inventory: Inventory) -> Configuration:
        await self._ask_offers(inventory)
        if order.configuration is not None:
            return order.configuration
        of_file = await self._keeper.in_thread(self._of_file)
        return named(order.name, inventory, self._offers, of_file)

    async def _ask_offers(self, inventory: Inventory) -> None:
        missing = [gpu.uuid for gpu in silent(inventory, self._offers) if not gpu.hung]
        if missing:
            self._offers |= await self._worker.call(_ask_offers, self._driver, missing)

    async def _towards(self, wanted: Resolved) -> float | None:
        inventory = self._writer.store.snapshot.inventory
        used, notes = await self._ask(wanted, inventory)
        if self._order is not self._taken:
            return 0.0
        # It may have changed meanwhile.
        snapshot = self._writer.store.snapshot
        inventory = snapshot.inventory
        published = replace(self._run, withdrawal=snapshot.withdrawal)
        self._run = runs.current(published, inventory, wanted.wanted)
        target = runs.targets(wanted, self._run, self._keeper.memory.good)
        policy = self._policy(self._taken)
        plan = plan_node(inventory, self._offers, target, used, policy)
        now = asyncio.get_running_loop().time()
        self._run, action = runs.assess(self._run, plan, now)
        self.shown.planned(plan, self._run, wanted, inventory, notes)
        if isinstance(action, Rest):
            return await self._rest(plan, action)
        if isinstance(action, Withdraw):
            self._writer.withdraw(action.withdrawal)
            if not action.withdrawal.leaving:
                return 0.0
            self._owed = self._writer.store.snapshot.generation
        if self._owed is not None:
            return await self._tell()
        if not isinstance(action, Change):
            return GRACE_SECONDS
        return await self._change(plan, action.decisions, used)

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

    async def _ask(self, wanted: Resolved, inventory: Inventory) -> tuple[InUse, list[str]]:
        gpus = [uuid for uuid in wanted.wanted if inventory.gpu(uuid) is not None]
        holdings = await self._around.ask()
        try:
            clients, unknown = await self._worker.call(ask_clients, self._driver, gpus)
        except DriverUnavailable as error:
            clients, unknown = {}, {"": f"processes are not known: {error}"}
        return in_use(inventory, holdings, clients), list(dict.fromkeys(unknown.values()))

    async def _rest(self, plan: NodePlan, action: Rest) -> float | None:
        evicting = plan.of(Action.EVICT)
        if plan.policy is Policy.EVICT and plan.of(Action.EVICT, Action.WAIT):
            pods = sorted({pod for each in evicting for pod in each.evictable})
            if self._around.evictor is None:
                note = "pods cannot be evicted here: there is no access to the API server"
            else:
                note = await self._around.evictor.evict(pods)
            self.shown.note(note)
        await self._keeper.reached({each.gpu.uuid: each.wanted for each in plan.of(Action.NOTHING)})
        now = asyncio.get_running_loop().time()
        pauses = [POLL_SECONDS] if action.waits else []
        if any(not gpu.hung for gpu in silent(self._writer.store.snapshot.inventory, self._offers)):
            pauses.append(runs.DRIVER_PAUSE)
        if action.until is not None:
            pauses.append(max(0.0, action.until - now))
        return min(pauses, default=None)

    async def _change(self, plan: NodePlan, decisions: Sequence[Decision], used: InUse) -> float:
        problem = await self._keeper.begins(decisions)
        if problem:
            self.shown.waiting(Trouble(Code.NOT_SAVED, problem))
            return POLL_SECONDS
        changing = Changing(
            self._writer,
            self._stepper,
            self._keeper,
            self.shown,
            plan,
            self._run,
            self._offers,
            used,
        )
        await changing.carry_out(decisions)
        self._run = changing.run
        return 0.0

    def _goes_on(self) -> bool:
        return self._order is self._taken


def _out_of_reach(snapshot: Snapshot) -> str | None:
    """Why the driver cannot be asked now."""
    if snapshot.driver_error is not None:
        return snapshot.driver_error.text
    if snapshot.release is not None:
        return describe(snapshot.release, snapshot.inventory)
    return None if snapshot.generation else "not scanned yet"


def _ask_offers(driver: Driver, uuids: Sequence[str]) -> dict[str, Sequence[ProfileOffer]]:
    """What the GPUs offer. A GPU that does not say is left out: the planner knows it as unreadable.
    Blocks.
    """
    found: dict[str, Sequence[ProfileOffer]] = {}
    for uuid in uuids:
        try:
            found[uuid] = driver.profiles(uuid)
        except DriverUnavailable:
            raise
        except DriverError as error:
            log.debug("profiles are not known", extra={"gpu": uuid, "reason": str(error)})
    return found
