"""Commands as the documents and Helm's notes show them, pasted into a shell
whose programs only write down what they were called with.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Programs that the documents start. Each is a stand-in here.
PROGRAMS = (
    *("buildah", "containerd", "ctr", "curl", "docker", "git", "helm", "k3s", "kind", "kubectl"),
    *("make", "mig-device-plugin", "nvidia-smi", "openssl", "podman", "sudo"),
)
#: Programs that are harmless and whose output may matter to the next in a pipe.
REAL = ("cat", "grep", "sed")

# Standard input is read to its end, as the real program would with `-f -`, and kept.
_STAND_IN = """#!/bin/sh
{ printf '%s\\036' "${0##*/}" "$@"; printf '\\035'; } >> "$CALLS"
[ "${0##*/}" != sudo ] || exec "$@"
cat >> "$CALLS.stdin"
"""


@dataclass(frozen=True, slots=True)
class Pasted:
    """What came of it: every call with its arguments, all standard input that the programs got, and
    what the shell complained about.
    """

    calls: tuple[tuple[str, ...], ...]
    stdin: str
    complaints: str


def paste(text: str, folder: Path) -> Pasted:
    """Run `text` in bash as it stands."""
    programs = folder / "bin"
    if not programs.exists():
        programs.mkdir(parents=True)
        for name in PROGRAMS:
            (programs / name).write_text(_STAND_IN)
            (programs / name).chmod(0o755)
        for name in REAL:
            real = shutil.which(name)
            assert real is not None
            (programs / name).symlink_to(real)
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        shutil.copy(programs / "make", python)
    calls = folder / "calls"
    stdin = folder / "calls.stdin"
    for file in (calls, stdin):
        file.write_text("")
    done = subprocess.run(
        [shutil.which("bash") or "/bin/bash", "-c", text],
        env=dict(os.environ, PATH=str(programs), CALLS=str(calls)),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    return Pasted(
        tuple(tuple(call.split("\36")[:-1]) for call in calls.read_text().split("\35")[:-1]),
        stdin.read_text(),
        done.stderr,
    )


def in_document(text: str) -> Iterator[str]:
    """Every block of commands of a Markdown document, and every command in a line of text."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in {"console", "sh", "bash"}:
            prompted = re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)
            yield "\n".join(prompted) if prompted else block
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from _in_prose(prose)


def in_notes(notes: str) -> Iterator[str]:
    """Every command of Helm's notes: indented lines, a here-document from its command to its mark,
    and commands in a line of text.
    """
    heredocs = r"^kubectl apply -f - <<'EOF'\n.*?^EOF$"
    yield from re.findall(heredocs, notes, re.MULTILINE | re.DOTALL)
    rest = re.sub(heredocs, "", notes, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(rf"^  ((?:{'|'.join(PROGRAMS)}) .*)$", rest, re.MULTILINE)
    yield from _in_prose(rest)


def _in_prose(text: str) -> Iterator[str]:
    # The program's own commands in prose are often names only (`sim`): tests/unit/test_docs.py has
    # those.
    names = "|".join(name for name in PROGRAMS if name != "mig-device-plugin")
    yield from re.findall(rf"`((?:{names}) [^`\n]+)`", text)
