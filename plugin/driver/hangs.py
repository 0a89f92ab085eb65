"""Calls of the driver that have not returned: who is in which call, and which GPUs and functions
are left alone because of one.

A call that hangs cannot be ended, only left behind with its thread. So each thread that calls the
driver keeps a record of its present call, which others read. When the call has taken too long, the
thread is abandoned and the call is noted in :class:`Hangs`. From then on nobody asks that GPU (or,
for a call that is about no GPU, nobody calls that function) until the call has returned.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from msgspec import Struct

#: A GPU or function that is left alone is tried once more after so long; the pause doubles with
#: each further call that hangs, since each costs a thread.
RETRY_SECONDS = 300.0


class GpuRef(Struct, frozen=True):
    """The GPU that a call is about, by what is known of it at that moment."""

    index: int | None = None
    uuid: str | None = None

    def is_same(self, other: GpuRef) -> bool:
        if self.uuid is not None and other.uuid is not None:
            return self.uuid == other.uuid
        return self.index is not None and self.index == other.index

    def __str__(self) -> str:
        return f"GPU {self.index}" if self.index is not None else f"GPU {self.uuid}"


class OpenCall(Struct, frozen=True):
    """A call that has not returned; ``since`` is of the monotonic clock."""

    function: str
    gpu: GpuRef | None
    since: float


class Abandoned(BaseException):
    """Ends the job of a thread that was left behind: others have done it since.

    No :class:`Exception`, so that no handler of failed calls takes it for one.
    """


class Doing(Struct, frozen=True):
    """What a thread is at: the GPU that its job is about just now, its call, and since when, by the
    monotonic clock, it has neither entered nor left one.
    """

    gpu: GpuRef | None
    call: OpenCall | None
    since: float


class Caller:
    """What a thread asks the driver at the moment. Written by that thread, read by others, except
    for ``abandoned``, which others set.
    """

    def __init__(self) -> None:
        #: Replaced as a whole: others must not see the GPU of one moment and the call of the next.
        self.doing = Doing(None, None, time.monotonic())
        self.abandoned = False

    @property
    def gpu(self) -> GpuRef | None:
        return self.doing.gpu

    @property
    def call(self) -> OpenCall | None:
        return self.doing.call

    def begin(self) -> float:
        """Begin with a job; when, by the monotonic clock."""
        now = time.monotonic()
        self.doing = Doing(None, None, now)
        return now

    def turn_to(self, gpu: GpuRef | None) -> None:
        """Be about another GPU, or about none."""
        self.doing = Doing(gpu, None, self.doing.since)

    def enter(self, function: str) -> None:
        if self.abandoned:
            raise Abandoned
        now, gpu = time.monotonic(), self.doing.gpu
        self.doing = Doing(gpu, OpenCall(function, gpu, now), now)

    def leave(self) -> None:
        self.doing = Doing(self.doing.gpu, None, time.monotonic())
        if self.abandoned:
            raise Abandoned


class _Here(threading.local):
    def __init__(self) -> None:
        self.caller = Caller()


_here = _Here()


def caller() -> Caller:
    """This thread's own."""
    return _here.caller


@contextlib.contextmanager
def about(gpu: GpuRef) -> Iterator[None]:
    """Calls of this thread are about this GPU until the block ends."""
    here = _here.caller
    before = here.gpu
    here.turn_to(gpu)
    try:
        yield
    finally:
        here.turn_to(before)


class Hung(Struct, frozen=True):
    """A call that was given up after ``seconds``. Until ``retry_at`` nobody tries again."""

    call: OpenCall
    seconds: float
    retry_at: float

    def __str__(self) -> str:
        return f"{self.call.function} has not returned for {self.seconds:.2g} s"


class Hangs:
    """Calls that were given up and have not returned. Thread-safe: a list is replaced, never
    changed.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self.open: tuple[Hung, ...] = ()

    def add(self, call: OpenCall) -> Hung:
        """Give a call up."""
        now = self._clock()
        with self._lock:
            before = [hung for hung in self.open if _alike(hung.call, call)]
            pause = self._retry_seconds * 2 ** len(before)
            hung = Hung(call, now - call.since, now + pause)
            self.open = (*self.open, hung)
        return hung

    def returned(self, hung: Hung) -> None:
        """The call has come back after all."""
        with self._lock:
            self.open = tuple(other for other in self.open if other is not hung)

    def of_gpu(self, gpu: GpuRef) -> Hung | None:
        """Why this GPU is to be left alone, if it is."""
        return self._first(lambda call: call.gpu is not None and call.gpu.is_same(gpu))

    def of_function(self, function: str) -> Hung | None:
        """Why this function, which is about no GPU, is to be left alone, if it is."""
        return self._first(lambda call: call.gpu is None and call.function == function)

    def longest(self) -> float:
        """How long the oldest of them has not returned; 0 without any."""
        now = self._clock()
        return max((now - hung.call.since for hung in self.open), default=0.0)

    def _first(self, matches: Callable[[OpenCall], bool]) -> Hung | None:
        if not self.open:
            return None
        now = self._clock()
        return next((h for h in self.open if matches(h.call) and now < h.retry_at), None)


def _alike(one: OpenCall, other: OpenCall) -> bool:
    if one.gpu is not None and other.gpu is not None:
        return one.gpu.is_same(other.gpu)
    return one.gpu is other.gpu and one.function == other.function
