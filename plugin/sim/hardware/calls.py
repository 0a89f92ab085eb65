"""Faults of single calls of the driver's library, by function, and how often each was called."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fail:
    """The call does nothing and returns this code."""

    code: int


@dataclass(frozen=True, slots=True)
class Hang:
    """The call blocks until the fault is lifted, then goes on."""


@dataclass(frozen=True, slots=True)
class Garble:
    """Every text that the call returns is these bytes, which by default are no UTF-8."""

    data: bytes = b"\xff\xfe\xfa"


@dataclass(frozen=True, slots=True)
class Exaggerate:
    """Every number that the call returns is this one."""

    number: int = 2**32 - 1


CallFault = Fail | Hang | Garble | Exaggerate


@dataclass(eq=False, slots=True)
class _Injected:
    function: str
    fault: CallFault
    target: str | None
    left: int | None
    spared: int = 0
    lifted: bool = False


class Calls:
    """What the calls of a simulated library meet at its border. Thread-safe."""

    def __init__(self) -> None:
        #: Calls by function, failed and hanging ones among them.
        self.counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._injected: list[_Injected] = []
        self._hanging: Counter[str] = Counter()

    def inject(
        self,
        function: str,
        fault: CallFault,
        *,
        times: int | None = None,
        target: str | None = None,
        after: int = 0,
    ) -> None:
        """Break the next `times` calls of a function, by default all that come, but for the first
        `after`.

        `target` is the UUID of a GPU, for calls about it or anything on it, or of a MIG device.
        Where several faults fit a call, the one injected first is taken.
        """
        with self._changed:
            self._injected.append(_Injected(function, fault, target, times, after))

    def restore(self, function: str | None = None, kind: type[CallFault] | None = None) -> None:
        """Lift the faults, of any or one kind, of a function or of all; calls that hang go on."""
        with self._changed:
            for injected in self._injected:
                injected.lifted = function in {None, injected.function} and (
                    kind is None or isinstance(injected.fault, kind)
                )
            self._injected = [injected for injected in self._injected if not injected.lifted]
            self._changed.notify_all()

    def broken(self) -> frozenset[str]:
        """Functions that have a fault that was not lifted."""
        with self._changed:
            return frozenset(injected.function for injected in self._injected)

    def wait_hanging(self, function: str, seconds: float) -> bool:
        """Wait until a call of the function hangs; tells whether one does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._hanging[function] > 0, seconds)

    def enter(self, function: str, concerns: Callable[[], Collection[str]]) -> CallFault | None:
        """What a call meets; blocks in one that hangs. `concerns` gives the UUIDs it is about."""
        with self._changed:
            self.counts[function] += 1
            met = self._meet(function, concerns) if self._injected else None
            if met is None or not isinstance(met.fault, Hang):
                return None if met is None else met.fault
            self._hanging[function] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: met.lifted)
            self._hanging[function] -= 1
            return None

    def _meet(self, function: str, concerns: Callable[[], Collection[str]]) -> _Injected | None:
        for injected in self._injected:
            if (
                injected.function == function
                and injected.left != 0
                and (injected.target is None or injected.target in concerns())
            ):
                if injected.spared:
                    injected.spared -= 1
                    continue
                if injected.left is not None:
                    injected.left -= 1
                return injected
        return None
