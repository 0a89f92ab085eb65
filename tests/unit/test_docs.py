"""What the documents say is what the code does, as far as a machine can tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugin.config.options import IGNORED_FLAGS, OPTIONS
from plugin.core.advertise.advertisement import advertise
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.engine import parse_node
from scripts import options_table
from tests.simulated import scan

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "charts/mig-device-plugin/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def slugs(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tables_of_options_are_current() -> None:
    text = options_table.DOCUMENT.read_text(encoding="utf-8")
    assert options_table.rewritten(text) == text, "run python -m scripts.options_table"


def test_every_option_has_a_row() -> None:
    text = "\n".join(options_table.tables().values())
    for option in OPTIONS:
        for name in (*option.flags, *option.envs):
            assert f"`{name}`" in text
    for flag in IGNORED_FLAGS:
        assert f"`{flag}`" in text


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target} is not there"
        if anchor:
            assert anchor in slugs(file), f"{target} has no such heading"


@every_document
def test_make_targets_exist(path: Path) -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    named = re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


@every_document
def test_files_that_are_named_exist(path: Path) -> None:
    folders = "plugin|tests|scripts|protos|charts|docs"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@every_document
def test_commands_and_their_flags_exist(path: Path) -> None:
    """Every line that starts the program, in a block or in a line of text."""
    help_text = _help()
    text = path.read_text(encoding="utf-8")
    flags = {flag for option in OPTIONS for flag in option.flags} | {
        "--output",
        "--scan",
        "--timeout",
        "--double-bit",
        "--help",
    }
    for line in re.findall(r"(?:^|`|\$ |-- )mig-device-plugin ([a-z][^`\n]*)", text, re.MULTILINE):
        command, *arguments = line.split()
        assert re.search(rf"^    {re.escape(command)}\b", help_text, re.MULTILINE), (
            f"there is no command {command}"
        )
        given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert given <= flags


def test_tests_that_are_named_exist() -> None:
    path = ROOT / "docs/kubelet.md"
    text = path.read_text(encoding="utf-8")
    files = dict(re.findall(r"\b([A-Z]) is `?(tests/[\w/.]+)`?", text.replace("\n", " ")))
    named = re.findall(r"`([A-Z])::(test_\w+)`", text)
    assert named
    for letter, test in named:
        assert f"def {test}(" in (ROOT / files[letter]).read_text(encoding="utf-8")


def test_the_readme_shows_what_the_demo_prints() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-m", "plugin", "demo"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown in done.stdout


def test_every_field_of_the_json_form_is_documented() -> None:
    settings = Settings(mig_strategy=MigStrategy.MIXED)
    inventory = scan(parse_node("1xa100-40gb:all-balanced"))
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w.*]+)`", text))
    for field in _fields(
        document(Snapshot(1, settings, inventory, advertise(inventory, settings)), "scan")
    ):
        assert field in documented


def test_the_example_of_devices_is_what_it_prints() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    found = re.search(r"^\$ mig-device-plugin (devices .*)\n((?:[^`].*\n)+)```", text, re.MULTILINE)
    assert found is not None
    done = subprocess.run(
        [sys.executable, "-m", "plugin", *found[1].split()],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert [line.rstrip() for line in done.stdout.splitlines()] == found[2].splitlines()


def test_every_simulated_node_is_documented() -> None:
    text = (ROOT / "docs/simulation.md").read_text(encoding="utf-8")
    for name, (card, count) in catalog().nodes.items():
        assert f"| `{name}` | {count} × `{card.key}`" in text


def test_the_example_geometries_advertise_what_is_said() -> None:
    text = (ROOT / "docs/simulation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+:[^`]+)` \| ((?:\d+ × `[^`]+`(?:, )?)+) \|$", text, re.MULTILINE)
    assert rows
    for node, said in rows:
        wanted = {
            f"nvidia.com/{name}": int(count)
            for count, name in re.findall(r"(\d+) × `([^`]+)`", said)
        }
        listed = advertise(
            scan(parse_node(node)), Settings(mig_strategy=MigStrategy.MIXED)
        ).resources
        assert {name: len(ids) for name, ids in listed.items()} == wanted


def _help() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "plugin", "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def _fields(value: dict[str, Any], prefix: str = "") -> set[str]:
    """Names of the fields as the document writes them: GPUs' and MIG devices' have tables of their
    own.
    """
    found: set[str] = set()
    for name, item in value.items():
        if prefix == "resources.":
            return {f"resources.*.{field}" for field in item}
        if not (isinstance(item, dict) and name == "driver"):
            found.add(prefix + name)
        if isinstance(item, dict):
            found |= _fields(item, f"{name}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            found |= _fields(item[0])
    return found
