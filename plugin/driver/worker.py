"""One thread at a time for all calls to a driver, so that a hung call blocks nothing but itself."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from plugin.driver.hangs import Abandoned, Caller, Doing, Hangs, Hung, OpenCall, caller
from plugin.errors import NO_CODE, DriverUnavailable, OutcomeUnknown

T = TypeVar("T")

#: How long a job may take at most, with several GPUs that hang in it one after another: for loops
#: that wait for one.
LONGEST_JOB_SECONDS = 900.0


class Deadlines(Struct, frozen=True):
    """After how many seconds a call counts as hung: one about a GPU, one about none, and one of a
    job that changes something.

    The slowest good calls initialise a GPU, which takes some seconds without persistence mode;
    initialising NVML can do that for each of them. Switching MIG mode may reset a GPU.
    """

    gpu: float = 10.0
    driver: float = 30.0
    change: float = 30.0

    def of(self, doing: Doing, *, change: bool) -> float:
        if change:
            return self.change
        return self.driver if doing.gpu is None else self.gpu


class HangListener(Protocol):
    """Hears of calls that were given up and of their return, on the event loop."""

    def __call__(self, hung: Hung, *, returned: bool) -> None: ...


class _Job:
    """A call of the worker that waits or runs. One that is a ``change`` runs at most once."""

    def __init__(
        self,
        name: str,
        run: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
        *,
        change: bool,
    ) -> None:
        self.name, self.run, self.loop, self.future = name, run, loop, future
        self.change = change

    @property
    def is_given_up(self) -> bool:
        """Whether it is a change that nobody waits for any more: it must not begin then."""
        return self.change and self.future.done()


class _Thread:
    """A daemon thread that runs jobs until it is left behind in one."""

    def __init__(self, worker: DriverWorker) -> None:
        self._worker = worker
        self.caller: Caller | None = None
        self.job: _Job | None = None
        self.since = 0.0
        self._thread = threading.Thread(target=self._work, name="driver", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        here = self.caller = caller()
        while not here.abandoned:
            job = self._worker.jobs.get()
            if job.is_given_up:
                continue
            self.since = here.begin()
            self.job = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.run()
            except BaseException as raised:  # noqa: BLE001 — it belongs to whoever waits
                error = raised
            self.job = None
            self._worker.done(self, job, result, error)


class DriverWorker:
    """Runs blocking calls one after another in a daemon thread of its own.

    The thread never keeps the process alive: a driver that hangs in the kernel must not stop us
    from exiting. When a call hangs, another thread takes over and runs the interrupted job again,
    which leaves out what hangs; the first ends with its call. A job that changes something is not
    run again.
    """

    def __init__(self, hangs: Hangs | None = None, deadlines: Deadlines | None = None) -> None:
        """`hangs` are the driver's: what is noted there its jobs leave out."""
        self.hangs = hangs if hangs is not None else Hangs()
        self.deadlines = deadlines or Deadlines()
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._current: _Thread | None = None
        self._left: dict[_Thread, tuple[Hung, _Job]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        self._listener: HangListener | None = None

    def start(self) -> None:
        """Start the thread. Once."""
        self._current = _Thread(self)

    def listen(self, listener: HangListener) -> None:
        """Have `listener` called whenever a call is given up or returns after that."""
        self._listener = listener

    @property
    def busy_seconds(self) -> float:
        """How long the longest call or job that has not returned has been running; 0 when idle."""
        return max(self._job_seconds(), self.hangs.longest())

    @property
    def call_in_flight(self) -> OpenCall | None:
        """The call of the driver that is running now."""
        here = self._current.caller if self._current is not None else None
        return here.call if here is not None else None

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in the thread. Cancelling stops the waiting, never the call.

        Raises RuntimeError when the thread has not been started: nobody would ever answer. Raises
        :class:`DriverUnavailable` when the job hangs outside of the driver's functions.
        """
        return await self._run(function, args, change=False)

    async def change(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)``, which changes something, in the thread, at most once.

        When it hangs, it is not run again, and what it has not done by then it will not do after
        its call has returned. That call itself may yet take effect: :class:`OutcomeUnknown` is
        raised, and the listener hears of its return. Otherwise like :meth:`call`. Cancelling
        keeps one from running that has not begun.
        """
        return await self._run(function, args, change=True)

    async def _run(self, function: Callable[..., T], args: tuple[Any, ...], *, change: bool) -> T:
        if self._current is None:
            raise RuntimeError("the driver's thread has not been started")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        name = getattr(function, "__name__", "a job")
        if (hung := self.hangs.of_function(name)) is not None:
            raise _does_not_end(hung)
        self.jobs.put(_Job(name, lambda: function(*args), loop, future, change=change))
        self._watch(loop)
        return await future

    def give_up(self, call: OpenCall) -> Hung:
        """Note a call that hangs in another thread than ours."""
        hung = self.hangs.add(call)
        self._tell(hung, returned=False)
        return hung

    def returned(self, hung: Hung) -> None:
        """A call that was given up has come back."""
        self.hangs.returned(hung)
        self._tell(hung, returned=True)

    # ---- in the threads

    def done(self, thread: _Thread, job: _Job, result: Any, error: BaseException | None) -> None:
        """A thread has finished a job."""
        # A loop that has ended meanwhile has nobody waiting, and must not end this thread.
        with contextlib.suppress(RuntimeError):
            job.loop.call_soon_threadsafe(self._finished, thread, job, result, error)

    # ---- on the event loop

    def _finished(
        self, thread: _Thread, job: _Job, result: Any, error: BaseException | None
    ) -> None:
        hung, interrupted = self._left.pop(thread, (None, None))
        if hung is not None:
            self.returned(hung)
        if job is interrupted:
            return  # others have done it since, or are told that nobody knows what it did
        if isinstance(error, Abandoned):
            # The call before this job's returned in the very moment in which it was given up, and
            # the thread had gone on to this one.
            self._leave(job, _cut_off(job.name))
            return
        if self._timer is not None and self._is_idle():
            self._timer.cancel()
            self._timer = None
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    def _leave(self, job: _Job, unknown: OutcomeUnknown) -> None:
        """Have an interrupted job run again, unless it changes something."""
        if job.future.done():
            return
        if job.change:
            job.future.set_exception(unknown)
        else:
            self.jobs.put(job)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the thread when the shortest deadline may have passed."""
        if self._timer is not None and self._timer_loop is loop:
            return
        shortest = min(self.deadlines.gpu, self.deadlines.driver, self.deadlines.change)
        self._look_later(shortest, loop)

    def _look_later(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._timer_loop = loop.call_later(seconds, self._look, loop), loop

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        thread = self._current
        if thread is None or self._is_idle():
            return
        job, here = thread.job, thread.caller
        if job is None or here is None:
            self._watch(loop)
            return
        doing = here.doing
        left = doing.since + self.deadlines.of(doing, change=job.change) - time.monotonic()
        if left > 0:
            self._look_later(left, loop)
            return
        here.abandoned = True
        self._give_up(thread, doing, job)
        self._watch(loop)

    def _give_up(self, thread: _Thread, doing: Doing, job: _Job) -> None:
        """Leave the thread behind and have another one do its job, and all that wait."""
        call = doing.call or OpenCall(
            job.name if doing.gpu is None else "reading the driver's files",
            doing.gpu,
            doing.since,
        )
        hung = self.hangs.add(call)
        self._left[thread] = hung, job
        self._current = _Thread(self)
        if doing.call is None and doing.gpu is None and not job.change:
            # It hangs in nothing that could be left out.
            if not job.future.done():
                job.future.set_exception(_does_not_end(hung))
        else:
            self._leave(job, _unclear(hung))
        self._tell(hung, returned=False)

    def _tell(self, hung: Hung, *, returned: bool) -> None:
        if self._listener is not None:
            self._listener(hung, returned=returned)

    def _is_idle(self) -> bool:
        return self.jobs.empty() and (self._current is None or self._current.job is None)

    def _job_seconds(self) -> float:
        thread = self._current
        if thread is None or thread.job is None:
            return 0.0
        return time.monotonic() - thread.since


def _unclear(hung: Hung) -> OutcomeUnknown:
    about = f"{hung.call.gpu}: " if hung.call.gpu is not None else ""
    return OutcomeUnknown(f"{about}{hung}, and may yet take effect", code=NO_CODE)


def _cut_off(name: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"{name} was cut off, and may have taken effect", code=NO_CODE)


def _does_not_end(hung: Hung) -> DriverUnavailable:
    return DriverUnavailable(
        f"the driver does not answer: {hung}", "see the kernel log (dmesg) for NVRM messages"
    )
