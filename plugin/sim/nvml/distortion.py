"""Distorts the output of a faulty call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from plugin.sim.hardware.calls import Exaggerate, Garble

_TEXT = ctypes.POINTER(ctypes.c_char)
_NUMBERS = tuple(
    ctypes.POINTER(number) for number in (ctypes.c_uint, ctypes.c_int, ctypes.c_ulonglong)
)
_WHOLE = (ctypes.c_uint, ctypes.c_int, ctypes.c_ulonglong, ctypes.c_longlong, ctypes.c_ushort)


def distort(types: Sequence[Any], arguments: Sequence[Any], fault: Garble | Exaggerate) -> None:
    """Overwrite the output arguments of a call; in arrays only the first item."""
    for position, (kind, argument) in enumerate(zip(types, arguments, strict=True)):
        if not argument:
            continue
        if isinstance(fault, Garble) and kind is _TEXT:
            data = (fault.data + b"\0")[: arguments[position + 1]]  # its length follows
            ctypes.memmove(argument, data, len(data))
        elif isinstance(fault, Exaggerate) and kind in _NUMBERS:
            argument[0] = fault.number
        elif _is_structure(getattr(kind, "_type_", None)):
            _structure(argument[0], fault)


def _structure(structure: Any, fault: Garble | Exaggerate) -> None:
    for name, kind, *_ in structure._fields_:
        if _is_structure(kind):
            _structure(getattr(structure, name), fault)
        elif isinstance(fault, Garble) and getattr(kind, "_type_", None) is ctypes.c_char:
            setattr(structure, name, fault.data)
        elif isinstance(fault, Exaggerate) and kind in _WHOLE and name != "version":
            setattr(structure, name, fault.number)


def _is_structure(kind: Any) -> bool:
    # Handles have no fields.
    return (
        isinstance(kind, type) and issubclass(kind, ctypes.Structure) and hasattr(kind, "_fields_")
    )
