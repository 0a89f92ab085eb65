"""The locks fit pyproject.toml, and what does not fit is found."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from scripts.lock import LOCKS, Lock, pins, problems, wanted

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

HASH = f"--hash=sha256:{'0' * 64}"
SMALL: dict[str, Any] = {
    "project": {"dependencies": ["Some.Thing>=2,<3"]},
    "dependency-groups": {"one": ["other==1", {"include-group": "two"}], "two": ["third[x]"]},
}


def test_the_locks_fit() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/lock.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (
        0,
        "product.txt, build.txt, image.txt, development.txt: all fit\n",
    )


@pytest.mark.parametrize("text", PROJECT["project"]["dependencies"])
def test_what_a_release_may_break_has_an_upper_bound(text: str) -> None:
    assert any(part.operator == "<" for part in Requirement(text).specifier)


def test_what_is_wanted_of_groups_within_groups() -> None:
    assert [str(each) for each in wanted(Lock("x", product=True, groups=("one",)), SMALL)] == [
        "Some.Thing<3,>=2",
        "other==1",
        "third[x]",
    ]


@pytest.mark.parametrize(
    ("text", "earlier", "expected"),
    [
        pytest.param(f"some-thing==2.5 \\\n    {HASH}\n", "", [], id="fits"),
        pytest.param("# nothing\n", "", ["Some.Thing<3,>=2 is not pinned"], id="missing"),
        pytest.param(
            f"some-thing==3.0 \\\n    {HASH}\n",
            "",
            ["Some.Thing<3,>=2 is pinned to 3.0"],
            id="out of bounds",
        ),
        pytest.param("some-thing==2.5\n", "", ["some-thing==2.5 has no hash"], id="no hash"),
        pytest.param(
            f"some-thing==2.5 \\\n    {HASH}\n",
            f"some-thing==2.4 \\\n    {HASH}\n",
            ["some-thing is pinned to 2.5 here, to 2.4 in another lock"],
            id="two versions",
        ),
    ],
)
def test_what_does_not_fit_is_found(text: str, earlier: str, expected: list[str]) -> None:
    assert list(problems(Lock("x", product=True), text, SMALL, earlier)) == expected


def test_markers_and_extras_do_not_hide_a_pin() -> None:
    text = (
        f"# a comment\na==1 ; sys_platform == 'win32' \\\n    {HASH} \\\n    {HASH}\nb[x]==2 \\\n"
    )
    assert pins(text) == {"a": ("1", 2), "b": ("2", 0)}


def test_the_image_installs_from_the_locks() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "requirements/product.txt" in text
    assert "requirements/image.txt" in text
    assert text.count("--require-hashes") == 2
    # What is installed without is the product itself.
    assert [line for line in text.splitlines() if "pip" in line and " install --no-deps" in line]


def test_every_lock_is_checked() -> None:
    assert {lock.path for lock in LOCKS} == set((ROOT / "requirements").glob("*.txt"))
