"""Counts and faults of the simulated library's calls, by function."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection

from msgspec import Struct


class Fail(Struct, frozen=True):
    """The call has no effect and returns this code."""

    code: int


class Hang(Struct, frozen=True):
    """The call blocks until the fault is lifted."""


class Garble(Struct, frozen=True):
    """Every string that the call returns has these bytes, by default invalid UTF-8."""

    data: bytes = b"\xff\xfe\xfa"


class Exaggerate(Struct, frozen=True):
    """Every number that the call returns is this one."""

    number: int = 2**32 - 1


CallFault = Fail | Hang | Garble | Exaggerate


class _Injected(Struct, eq=False):
    function: str
    fault: CallFault
    target: str | None
    left: int | None
    spared: int = 0
    lifted: bool = False


class Calls:
    """Faults and counts at the library's border. Thread-safe."""

    def __init__(self) -> None:
        #: Calls by function, including failed and hanging ones.
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
        """Break the next `times` calls of a function after the first `after`, by default all.

        `target` limits this to calls about a GPU (or anything on it) or a MIG device, by UUID. Of
        several faults that match a call, the first injected one applies.
        """
        with self._changed:
            self._injected.append(_Injected(function, fault, target, times, after))

    def restore(self, function: str | None = None, kind: type[CallFault] | None = None) -> None:
        """Lift the faults of one kind or all kinds, of one function or all; hanging calls
        continue.
        """
        with self._changed:
            for injected in self._injected:
                injected.lifted = function in {None, injected.function} and (
                    kind is None or isinstance(injected.fault, kind)
                )
            self._injected = [injected for injected in self._injected if not injected.lifted]
            self._changed.notify_all()

    def broken(self) -> frozenset[str]:
        """Functions with faults."""
        with self._changed:
            return frozenset(injected.function for injected in self._injected)

    def wait_hanging(self, function: str, seconds: float) -> bool:
        """Wait until a call of the function hangs; returns whether one does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._hanging[function] > 0, seconds)

    def enter(self, function: str, concerns: Callable[[], Collection[str]]) -> CallFault | None:
        """Count a call and return its fault; blocks if that hangs. `concerns` returns the UUIDs
        that the call is about.
        """
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
