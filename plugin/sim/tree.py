"""Writes a simulated node's files below a folder, for code that reads them."""

from __future__ import annotations

import os
from pathlib import Path

from plugin.errors import SimulationError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.files import node_files

_TOPS = ("dev", "proc", "sys")
_MARKER = ".simulated-node"


def write(engine: SimNode, folder: Path) -> None:
    """Bring ``dev``, ``proc`` and ``sys`` below ``folder`` up to date with the node.

    Changes only what differs. Raises :class:`~plugin.errors.SimulationError` for a folder with such
    files from elsewhere, such as ``/``.
    """
    marker = folder / _MARKER
    if not marker.exists() and any((folder / top).exists() for top in _TOPS):
        raise SimulationError(
            f"{folder} has {', '.join(_TOPS)} that no simulation wrote; name an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    wanted = {folder / path.lstrip("/"): text for path, text in node_files(engine).items()}
    for top in _TOPS:
        for folders, _, names in os.walk(folder / top, topdown=False):
            for name in names:
                if Path(folders, name) not in wanted:
                    Path(folders, name).unlink()
            if not any(Path(folders).iterdir()):
                Path(folders).rmdir()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="ascii") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")
