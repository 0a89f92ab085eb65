"""Writes a simulated node's files below a folder, so that code that reads them can be tried without
hardware.
"""

from __future__ import annotations

import os
from pathlib import Path

from plugin.errors import SimulationError
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.files import node_files

_TOPS = ("dev", "proc", "sys")
_MARK = ".simulated-node"


def write(engine: SimNode, folder: Path) -> None:
    """Make ``folder`` hold ``dev``, ``proc`` and ``sys`` as the node has them now.

    Files that are as they should be are left alone, others of an earlier state are removed with
    their folders. Raises :class:`~plugin.errors.SimulationError` for a folder that has such files
    from elsewhere, such as ``/``.
    """
    mark = folder / _MARK
    if not mark.exists() and any((folder / top).exists() for top in _TOPS):
        raise SimulationError(
            f"{folder} has {', '.join(_TOPS)} that no simulation wrote; name an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
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
