"""``partition apply`` where no daemon runs: does what the daemon does, for one order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plugin import publishing
from plugin.assembly import assemble, build_driver
from plugin.commands.partition_given import Given
from plugin.commands.partition_holders import asking, warning
from plugin.commands.partition_lines import Lines, warn
from plugin.core.partition.progress import GpuState, Progress, document
from plugin.core.settings import Settings
from plugin.partition.executor import Executor
from plugin.partition.orders import Orders
from plugin.partition.surroundings import Surroundings, nobody
from plugin.partitioning import MEMORY
from plugin.state.places import DEFAULT_LEDGER
from plugin.state.turns import without_daemon

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Of a process that a signal ended, as a shell has it: this and the signal's number.
_SIGNALLED = 128


def apply_alone(settings: Settings, order: tuple[str, ...], given: Given) -> int:
    """`order` is what a daemon would be asked. Raises :class:`~plugin.errors.ControlError` while
    another process may change the GPUs.
    """
    with tempfile.TemporaryDirectory(prefix="mig-device-plugin-") as folder:
        own = Path(folder) / "ledger.json"
        # Where a daemon has its ledger, what is wanted is beside it.
        ledger = own if settings.simulate else Path(settings.ledger_file or DEFAULT_LEDGER)
        with without_daemon(ledger, settings.control_socket):
            warn("no daemon runs here: changing the GPUs")
            return asyncio.run(_alone(settings, order, given, own, ledger.with_name(MEMORY)))


async def _alone(
    settings: Settings, order: tuple[str, ...], given: Given, ledger: Path, memory: Path
) -> int:
    # Devices are in nobody's service here: that they leave it is no news.
    logging.getLogger("plugin.state.reports").setLevel(logging.ERROR)
    driver, _ = build_driver(settings)
    daemon = assemble(settings, driver, ledger)
    holdings = nobody if settings.simulate else asking(settings)
    around = Surroundings(holdings, evictor=publishing.evictor(settings, None))
    orders = Orders(daemon.writer, driver, daemon.worker, memory, around, settings)
    await orders.load()
    await daemon.start()
    warn(warning(await holdings()))
    done = await orders.perform(["apply", *order])
    warn(done["warning"])
    tasks = [
        asyncio.create_task(daemon.writer.run(daemon.heartbeats)),
        asyncio.create_task(orders.run(daemon.heartbeats)),
    ]
    outlasts = done["warning"] is None and not settings.simulate
    try:
        status = await _followed(orders.executor, given, outlasts=outlasts)
        if half := orders.half_made:
            named = ", ".join(map(str, half))
            warn(f"GPU {named} may be half-made: the next daemon or partition apply mends it")
        return status
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _followed(executor: Executor, given: Given, *, outlasts: bool) -> int:
    """Until it is applied or is not, the time is over or a signal comes. An order that `outlasts`
    the command is saved for the next daemon.
    """
    lines = Lines(given.output)
    ended = asyncio.create_task(_ended(executor, lines))
    number: signal.Signals | None = None
    with _signalled() as came:
        first: set[asyncio.Future[Any]] = {ended, came}
        seconds = given.seconds or None
        await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        number = came.result() if came.done() else None
    if ended.done():
        ended.result()
    else:
        ended.cancel()
        await _stopped(executor, lines, number)
    return _end(executor.progress, lines, number, outlasts=outlasts)


async def _ended(executor: Executor, lines: Lines) -> None:
    """Until nothing more happens by itself, and what came of it is kept."""
    while True:
        changed, round_ended = executor.shown.changed.wait(), executor.rounds.wait()
        lines.show(document(executor.progress))
        if not executor.progress.ended:
            round_ended.close()
            await changed
            continue
        changed.close()
        if executor.at_rest:
            round_ended.close()
            return
        await round_ended


async def _stopped(executor: Executor, lines: Lines, number: signal.Signals | None) -> None:
    """No other GPU is begun, and the one in hand is not left half-made."""
    in_hand = [gpu.index for gpu in executor.progress.gpus if gpu.state is GpuState.APPLYING]
    if in_hand:
        why = "the time is over" if number is None else number.name
        named = ", ".join(map(str, in_hand))
        warn(f"{why}: GPU {named} is finished first; a signal ends this at once")
    executor.stop()
    await executor.settled()
    lines.show(document(executor.progress))


def _end(progress: Progress, lines: Lines, number: signal.Signals | None, *, outlasts: bool) -> int:
    found = document(progress)
    if progress.ended:
        return lines.end(found)
    text = "not applied in time" if number is None else f"not applied because of {number.name}"
    left = [gpu.index for gpu in progress.gpus if gpu.state is not GpuState.APPLIED]
    reason = f"GPU {', '.join(map(str, left))} is not as wanted" if left else ""
    status = lines.end(found, after=f"{text}, and still wanted" if outlasts else text, why=reason)
    return status if number is None else _SIGNALLED + number


@contextlib.contextmanager
def _signalled() -> Iterator[asyncio.Future[signal.Signals]]:
    """The first signal within; behind that, and behind the block, a signal does what it does to
    any process.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()

    def as_before() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def note(number: signal.Signals) -> None:
        as_before()
        came.set_result(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, note, number)
    try:
        yield came
    finally:
        as_before()
