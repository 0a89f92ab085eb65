"""Running a command as an ordinary user, also where the tests run as root."""

from __future__ import annotations

import os
import shutil

#: In front of a command: nobody, who may read everything (the interpreter may lie in root's home)
#: and write nothing but their own and what is everybody's.
AS_NOBODY: tuple[str, ...] = (
    (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
    )
    if os.geteuid() == 0
    else ()
)
MISSING = "" if not AS_NOBODY or shutil.which("setpriv") else "needs setpriv (util-linux)"
