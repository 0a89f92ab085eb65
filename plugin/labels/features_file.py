"""The features file on disk: replaced whole and at once, by nobody's reader seen half-written.

Node Feature Discovery reads the folder each minute, takes no file whose name begins with a dot, and
removes labels whose file is gone. So the file stays when the daemon ends: only a daemon that is
configured without it, or with another one, removes it. Where it was written is recorded in a folder
that outlives the process.

Every method blocks and raises OSError.
"""

from __future__ import annotations

import errno
from pathlib import Path

from plugin.config import atomic, bounded
from plugin.core.labels.node import Values
from plugin.labels.document import from_text, is_ours, to_text

#: Node Feature Discovery ignores a larger file.
MOST_BYTES = 64_000
_MOST_PATH_BYTES = 4096


class FeaturesFile:
    """One file of ours in a folder of somebody else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Values:
        """The labels in it, whoever of us wrote them; none where it is missing or not ours."""
        return from_text(self._text())

    def write(self, values: Values) -> bool:
        """Have it say this; tells whether anything was to be done."""
        text = to_text(values)
        if self._text() == text and self.path.stat().st_mode & 0o777 == atomic.MODE:
            return False
        if (found := self._text()) and not is_ours(found):
            what = "another program's file is there; choose another name"
            raise FileExistsError(errno.EEXIST, what, str(self.path))
        if len(text) > MOST_BYTES:
            what = f"would have more than {MOST_BYTES} bytes"
            raise OSError(errno.EFBIG, what, str(self.path))
        atomic.remove_leftovers(self.path)
        atomic.replace(self.path, text.encode())
        return True

    def remove(self) -> bool:
        """Remove it if it is ours; tells whether it was. A folder that is not there may be one that
        this process does not see, so that nothing is known of the file.
        """
        self.path.parent.stat()
        if not is_ours(self._text()):
            return False
        self.path.unlink(missing_ok=True)
        return True

    def _text(self) -> str:
        try:
            return bounded.read(self.path, MOST_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""


class Record:
    """Where a features file was written, so that a later process can remove it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> FeaturesFile | None:
        """The file that was recorded."""
        try:
            text = bounded.read(self._path, _MOST_PATH_BYTES).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        path = text.removesuffix("\n")
        return FeaturesFile(Path(path)) if path.startswith("/") and "\0" not in path else None

    def write(self, file: FeaturesFile | None) -> None:
        if file is None:
            self._path.unlink(missing_ok=True)
            return
        known = self.read()
        if known is None or known.path != file.path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic.replace(self._path, f"{file.path}\n".encode(errors="surrogateescape"))
