"""A stand-in for the loaded ``libnvidia-ml.so.1``: the object whose attributes pynvml calls with
ctypes references.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from plugin.sim.hardware.engine import SimNode
from plugin.sim.nvml import devices, health, instances
from plugin.sim.nvml.abi import Session, c_function, error_string

_EXPORTS = devices.EXPORTS | health.EXPORTS | instances.EXPORTS


class SimLibrary:
    """Answers NVML's C functions from a simulated node.

    Attributes are C function pointers with argument types, so that references, structures and
    strings are marshalled as for the real library and an argument of a wrong type fails. A function
    that is not here, or is in ``without`` (to play an older driver), raises :class:`AttributeError`
    as a loaded library does.

    Give it to :class:`plugin.driver.nvml.NvmlDriver` as its library, or set ``pynvml.nvmlLib`` to
    it and empty pynvml's cache of function pointers.
    """

    def __init__(self, engine: SimNode, without: Collection[str] = ()) -> None:
        self._session = Session(engine)
        self._without = frozenset(without)

    def __getattr__(self, name: str) -> Any:
        if name == "nvmlErrorString":
            function = error_string()
        elif name in _EXPORTS and name not in self._without:
            function = c_function(self._session, _EXPORTS[name])
        else:
            raise AttributeError(f"undefined symbol: {name}")
        setattr(self, name, function)  # as ctypes.CDLL, which makes each function once
        return function
