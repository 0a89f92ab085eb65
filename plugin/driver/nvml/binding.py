"""Which library pynvml calls: the one of the driver that makes the call.

pynvml keeps one library per process in a global, and the addresses of its functions in a cache.
Here, that global stands for the library that the calling thread uses at that moment. Drivers over
different libraries (tests have many simulated ones, and the machine's own) never meet, and what
runs inside :func:`using` calls pynvml as if there were only one.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pynvml


class _CallersLibrary(threading.local):
    """Has NVML's functions as attributes, as a loaded library does."""

    library: object | None = None

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

        return call


_callers = _CallersLibrary()


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
def using(library: object | None) -> Iterator[None]:
    """Have pynvml call `library` in this thread until the block ends; blocks nest.

    Without a library, and outside of any block, each call raises pynvml's Uninitialized.
    """
    if pynvml.nvmlLib is not _callers:
        with pynvml.libLoadLock:
            pynvml.nvmlLib = _callers
            pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 — there is no public way
    before, _callers.library = _callers.library, library
    try:
        yield
    finally:
        _callers.library = before
