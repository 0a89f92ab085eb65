#!/usr/bin/env python3
"""Write requirements/*.txt from pyproject.toml, pinned with hashes for every machine.

With --check say, without a network, whether they fit pyproject.toml; with --wheels ask the index
whether each pin has a wheel for each machine and Python.

Needs uv, but for --check.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
#: The floor first: what is chosen has to run there.
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
#: The C library of the oldest distributions that nodes run; wheels for it run on newer ones.
PLATFORM = "manylinux_2_28"

HEADER = "# Written by `make lock` from pyproject.toml; docs/libraries.md says when to renew it.\n"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


@dataclass(frozen=True, slots=True)
class Lock:
    """A file and what it is made of: the product's dependencies or groups of pyproject.toml."""

    name: str
    product: bool = False
    groups: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.txt"


#: In this order: what the earlier ones pin holds for the later ones.
LOCKS = (
    Lock("product", product=True),
    Lock("build", groups=("build",)),
    Lock("image", groups=("build", "bill-of-materials")),
    Lock("development", product=True, groups=("build", "dev")),
)


def wanted(lock: Lock, project: dict[str, Any]) -> list[Requirement]:
    """What pyproject.toml asks for."""
    groups = project["dependency-groups"]

    def of(group: str) -> Iterator[str]:
        for entry in groups[group]:
            if isinstance(entry, str):
                yield entry
            else:
                yield from of(entry["include-group"])

    texts = [*project["project"]["dependencies"]] if lock.product else []
    texts += [text for group in lock.groups for text in of(group)]
    return [Requirement(text) for text in texts]


def pins(text: str) -> dict[str, tuple[str, int]]:
    """Name → version and number of hashes."""
    found: dict[str, tuple[str, int]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        match = _PIN.match(block)
        if match:
            name = canonicalize_name(match["name"])
            found[name] = (match["version"], len(_HASH.findall(block)))
    return found


def problems(lock: Lock, text: str, project: dict[str, Any], earlier: str = "") -> Iterator[str]:
    """Why the text of a lock does not fit; nothing when it does."""
    found = pins(text)
    for requirement in wanted(lock, project):
        pinned = found.get(canonicalize_name(requirement.name))
        if pinned is None:
            yield f"{requirement} is not pinned"
        elif not requirement.specifier.contains(pinned[0], prereleases=True):
            yield f"{requirement} is pinned to {pinned[0]}"
    for name, (version, hashes) in found.items():
        if not hashes:
            yield f"{name}=={version} has no hash"
    for name, (version, _) in pins(earlier).items():
        if found.get(name, (version, 0))[0] != version:
            yield f"{name} is pinned to {found[name][0]} here, to {version} in another lock"


def write(lock: Lock, upgrade: Sequence[str]) -> None:
    before = [other.path for other in LOCKS[: LOCKS.index(lock)]]
    _uv(
        *("compile", "--universal", "--generate-hashes", "--python-version", PYTHONS[0]),
        *("--no-header", "--no-annotate", "--output-file", str(lock.path)),
        *(f"--constraints={path}" for path in before),
        *(f"--group=pyproject.toml:{group}" for group in lock.groups),
        *(("pyproject.toml",) if lock.product else ()),
        *upgrade,
    )
    # uv reads the old file, to keep its pins, and writes it anew.
    lock.path.write_text(HEADER + lock.path.read_text(encoding="utf-8"), encoding="utf-8")


def without_wheels(lock: Lock) -> Iterator[str]:
    """Machines and Pythons for which a pin has no wheel, with the reason."""
    for python in PYTHONS:
        for machine in MACHINES:
            try:
                _uv(
                    *("compile", "--no-deps", "--only-binary=:all:", "--python-version", python),
                    *("--python-platform", f"{machine}-{PLATFORM}", str(lock.path)),
                )
            except subprocess.CalledProcessError as error:
                yield f"Python {python} on {machine}: {' '.join(error.stderr.split())}"


def _uv(*arguments: str) -> None:
    tool = (sys.executable, "-m", "uv", "--quiet", "--native-tls", "pip")
    subprocess.run((*tool, *arguments), cwd=ROOT, check=True, capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="without a network")
    choice.add_argument("--wheels", action="store_true", help="ask the index")
    choice.add_argument("--upgrade", action="store_true", help="take the newest releases")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    wrong = []
    try:
        for lock in LOCKS if not (arguments.check or arguments.wheels) else ():
            write(lock, ("--upgrade",) if arguments.upgrade else ())
        if not arguments.check:
            wrong += [f"{lock.name}: {text}" for lock in LOCKS for text in without_wheels(lock)]
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    earlier = ""
    for lock in LOCKS:
        text = lock.path.read_text(encoding="utf-8")
        wrong += [f"{lock.path.name}: {each}" for each in problems(lock, text, project, earlier)]
        earlier += text
    print("\n".join(wrong) or f"{', '.join(lock.path.name for lock in LOCKS)}: all fit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
