"""Which library pynvml calls: the one of the driver that makes the call.

pynvml keeps one library per process in a global, and the addresses of its functions in a cache.
Here, that global stands for the library that the calling thread uses at that moment. Drivers over
different libraries (tests have many simulated ones, and the machine's own) never meet, and what
runs inside :func:`using` calls pynvml as if there were only one.

Every NVML call passes here, so here it is noted which one a thread is in, a thread that was left
behind in a call ends, and what hangs is not asked again.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pynvml

from plugin.driver.hangs import Hangs, Hung, caller


class HungCall(pynvml.NVMLError):  # type: ignore[misc]
    """Not called: the GPU, or the function itself, hangs."""

    hung: Hung | None = None

    def __str__(self) -> str:
        return str(self.hung)


class _CallersLibrary(threading.local):
    """Has NVML's functions as attributes, as a loaded library does."""

    library: object | None = None
    hangs: Hangs | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self.library is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
            try:
                function = getattr(self.library, name)
            except AttributeError:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND) from None
            if name == "nvmlErrorString":  # the only one that does not return a code
                function.restype = ctypes.c_char_p
                return function(*arguments)
            here = caller()
            if self.hangs is not None and self.hangs.open:
                _refuse(self.hangs, name)
            here.enter(name)
            try:
                return function(*arguments)
            finally:
                here.leave()

        return call


_callers = _CallersLibrary()


def _refuse(hangs: Hangs, name: str) -> None:
    gpu = caller().gpu
    hung = hangs.of_function(name) if gpu is None else hangs.of_gpu(gpu)
    if hung is not None:
        error = HungCall(pynvml.NVML_ERROR_UNKNOWN)
        error.hung = hung
        raise error


def exports(name: str) -> bool:
    """Whether the library in use has a function, which the answer Function Not Found alone does not
    tell.
    """
    return hasattr(_callers.library, name)


def exported(name: str) -> Callable[..., Any]:
    """A function of the library in use, as C declares it, where pynvml's own does too much."""
    found: Callable[..., Any] = getattr(_callers, name)
    return found


@contextlib.contextmanager
def using(library: object | None, hangs: Hangs | None = None) -> Iterator[None]:
    """Have pynvml call `library` in this thread until the block ends, but for what `hangs`; blocks
    nest.

    Without a library, and outside of any block, each call raises pynvml's Uninitialized.
    """
    if pynvml.nvmlLib is not _callers:
        with pynvml.libLoadLock:
            pynvml.nvmlLib = _callers
            pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 — there is no public way
    before = _callers.library, _callers.hangs
    _callers.library, _callers.hangs = library, hangs
    try:
        yield
    finally:
        _callers.library, _callers.hangs = before
