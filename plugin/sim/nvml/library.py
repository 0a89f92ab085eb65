"""The simulated ``libnvidia-ml.so.1``: an object whose attributes pynvml calls through ctypes."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Collection
from typing import Any

from plugin.sim.hardware.calls import Exaggerate, Fail, Garble
from plugin.sim.hardware.codes import MESSAGES, Code, NodeError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.nvml import changes, devices, health, instances
from plugin.sim.nvml.abi import Export, Session
from plugin.sim.nvml.concerns import concerns
from plugin.sim.nvml.distortion import distort

_log = logging.getLogger(__name__)

#: All functions but ``nvmlErrorString``.
_EXPORTS = changes.EXPORTS | devices.EXPORTS | health.EXPORTS | instances.EXPORTS
FUNCTIONS = frozenset(_EXPORTS)


class SimLibrary:
    """Implements NVML's C functions over a simulated node.

    Attributes are C function pointers with argument types, so ctypes marshals as for the real
    library and rejects wrong types. Missing functions, and those in ``without`` (an older driver),
    raise :class:`AttributeError` as in a loaded library.

    Pass it to :class:`plugin.driver.nvml.NvmlDriver` as its library, or use
    :func:`plugin.driver.nvml.binding.using` for pynvml. ``SimNode.calls`` counts and breaks its
    functions.
    """

    def __init__(self, engine: SimNode, without: Collection[str] = ()) -> None:
        self._session = Session(engine)
        self._without = frozenset(without)

    def __getattr__(self, name: str) -> Any:
        if name == "nvmlErrorString":
            function = _error_string()
        elif name in _EXPORTS and name not in self._without:
            function = _c_function(self._session, _EXPORTS[name])
        else:
            raise AttributeError(f"undefined symbol: {name}")
        setattr(self, name, function)  # cached, as in ctypes.CDLL
        return function


def _c_function(session: Session, export: Export) -> Any:
    """A real C function pointer, so that ctypes checks the arguments."""

    def answer(*arguments: Any) -> int:
        try:
            fault = session.engine.calls.enter(
                export.name, lambda: concerns(session, export.name, arguments)
            )
            if isinstance(fault, Fail):
                return fault.code
            if not export.before_init and not session.initialised:
                return Code.UNINITIALIZED
            session.engine.enter()
            export.body(session, *arguments)
            if isinstance(fault, Garble | Exaggerate):
                distort(export.arguments, arguments, fault)
        except NodeError as error:
            return error.code
        except Exception:  # noqa: BLE001 - exceptions cannot pass through C
            _log.exception("the simulated %s failed", export.name)
            return Code.UNKNOWN
        return Code.SUCCESS

    return ctypes.CFUNCTYPE(ctypes.c_int, *export.arguments)(answer)


def _error_string() -> Any:
    """``const char *nvmlErrorString(nvmlReturn_t)``; the function keeps its strings alive."""
    texts = {
        code.value: ctypes.create_string_buffer(text.encode()) for code, text in MESSAGES.items()
    }

    def answer(code: int) -> int:
        return ctypes.addressof(texts.get(code, texts[Code.UNKNOWN.value]))

    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(answer)
