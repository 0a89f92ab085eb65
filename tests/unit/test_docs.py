"""What the documents say is what the code does, as far as a machine can tell."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugin.arguments import SIM_VERBS, parser_of
from plugin.config.options import IGNORED_FLAGS, OPTIONS
from plugin.core.advertise.advertisement import advertise
from plugin.core.health.faults import Severity, severity
from plugin.core.health.xids import CATALOGUE, Action
from plugin.core.settings import MigStrategy, Settings
from plugin.core.state import Snapshot
from plugin.core.status import document
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.engine import parse_node
from scripts import options_table
from tests.simulated import scan
from tests.unit.literals import LogCall, log_calls, log_calls_of, texts

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "docs/logs.md"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
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


def commands(path: Path) -> list[str]:
    """Every command line of the program, in a block or in a line of text, without what is before
    the program's name.
    """
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks = "\n".join(
        block for language, block in fenced.findall(text) if language in {"", "console"}
    )
    prose = fenced.sub("", text)
    started = r"mig-device-plugin ([a-z-][^\n]*)"
    return [
        *re.findall(rf"^(?:\$ )?(?:\w+=\S+ )*(?:[^$\n]* -- )?{started}", blocks, re.MULTILINE),
        *re.findall(r"^docker run [^\n]* mig-device-plugin ([^\n]*)", blocks, re.MULTILINE),
        *re.findall(r"`(?:[^`\n]* -- )?mig-device-plugin\s([^`]+)`", prose),
    ]


def parses(command: str) -> bool:
    """Whether the program takes it; TARGET and the like stand for something that it takes."""
    shown = re.sub(r"[][]", "", command.partition(" #")[0])
    arguments = [_PLACEHOLDERS.get(word, word) for word in shlex.split(shown)]
    try:
        parser_of(arguments).parse_args(arguments)
    except SystemExit as end:
        return not end.code
    return True


_PLACEHOLDERS = {
    "COMMAND": "run",
    "TARGET": "0:3",
    "SECONDS": "60",
    "GPU": "0",
    "XID": "79",
    "ACTION": "reset",
    "GEOMETRY": "all-1g.5gb",
    "NAME": "all-balanced",
    "FILE": "config.yaml",
    "NODE:GEOMETRY": "p4d.24xlarge:all-1g.5gb",
}


@every_document
def test_commands_are_taken_by_the_program(path: Path) -> None:
    assert [command for command in commands(path) if not parses(command)] == []


def test_commands_are_found_where_they_stand() -> None:
    assert commands(ROOT / "README.md")
    assert commands(ROOT / "docs/commands.md")
    assert "sim xid 7 119" in commands(ROOT / "docs/health.md")
    assert "cordon 0:3" in commands(ROOT / "docs/commands.md")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("devices --output json", True),
        ("drain TARGET [--timeout SECONDS]", True),
        ("COMMAND --help", True),
        ("device", False),
        ("devices --json", False),
        ("cordon", False),
        ("sim explode 0", False),
    ],
)
def test_only_what_the_program_takes_parses(command: str, expected: bool) -> None:  # noqa: FBT001
    assert parses(command) is expected


def test_every_verb_of_the_simulation_is_documented() -> None:
    text = (ROOT / "docs/simulation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z][^|]*`) \|", text.partition("## Control")[2], re.MULTILINE)
    shown = [verb for row in rows for verb in re.findall(r"`([^`]+)`", row)]
    assert {verb.split()[0] for verb in shown} == set(SIM_VERBS)
    assert [verb for verb in shown if not parses(f"sim {verb}")] == []


def numbers(text: str) -> set[int]:
    """``1, 3–5``."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("–")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_the_table_of_xids_is_the_catalogue() -> None:
    text = (ROOT / "docs/health.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d, –]+) \| ([^|]+) \|$", text, re.MULTILINE)
    documented = {xid: (action, effect) for action, xids, effect in rows for xid in numbers(xids)}
    assert documented.keys() == CATALOGUE.keys()
    assert sum(len(numbers(xids)) for _, xids, _ in rows) == len(CATALOGUE)
    for xid, (action, effect) in documented.items():
        if action in list(Action):
            assert CATALOGUE[xid].action == action, xid
        down = severity(xid, Settings()) is Severity.FATAL
        assert down is (effect == "out of service"), xid


# ---- messages


def test_every_log_message_is_documented_with_its_level_and_room() -> None:
    documented: dict[str, tuple[set[str], str]] = {}
    for section in re.split(r"^### ", LOGS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        (room,) = re.findall(r"\(`([\w.]+)`\)$", section.partition("\n")[0])
        for cell, levels in re.findall(
            r"^\| (`[^|]*`) \| ([a-z, ]+) \|", section, flags=re.MULTILINE
        ):
            for message in re.findall(r"`([^`]+)`", cell):
                assert message not in documented, f"{message!r} has two rows"
                documented[message] = (set(levels.split(", ")), room)
    assert documented.keys() == {call.message for call in log_calls()}
    for call in log_calls():
        levels, room = documented[call.message]
        assert f"{call.module}.".startswith(f"{room}."), f"{call.message!r} is of {call.module}"
        assert call.level in levels or not call.level, f"{call.message!r} is of level {call.level}"


def test_messages_are_found_where_a_function_passes_them_on() -> None:
    source = """
class Endpoint:
    def report(self, level, message, reason):
        log.log(level, message, extra={"reason": reason})

    def run(self):
        self.report(logging.INFO, "lost", "why")
        log.warning("%s changed", self.name)
"""
    assert set(log_calls_of("plugin.x", ast.parse(source))) == {
        LogCall("plugin.x", "lost", ""),
        LogCall("plugin.x", "… changed", "warning"),
    }
    with pytest.raises(ValueError, match="not a literal"):
        list(log_calls_of("plugin.x", ast.parse("log.info(text())")))


@every_document
def test_log_lines_that_are_shown_are_the_programs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^\d\d:\d\d:\d\d (\w+) +(.+?)(?:  .*)?$", text, re.MULTILINE)
    lines += re.findall(r'"level":"(\w+)".*"message":"([^"]+)"', text)
    written = {(call.level, call.message) for call in log_calls()}
    assert [line for line in lines if line not in written] == []
    # In a sentence: the daemon logs `message`.
    logged = re.findall(r"\blog(?:s|ged as)\s`([^`]+)`", text)
    assert set(logged) <= {call.message for call in log_calls()}


def test_messages_in_troubleshooting_are_the_programs() -> None:
    """Each part between two ``…`` stands in the source."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]*`[^|]*) \| ", text, re.MULTILINE)
    quoted = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 40
    assert [message for message in quoted if not in_source(message)] == []


def in_source(message: str) -> bool:
    """Whether each part of a message that is not ``…`` stands in the source."""
    parts = [part.strip(" ;:,.()") for part in message.split("…")]
    return any(parts) and all(any(part in text for text in texts()) for part in parts)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("registration lost", True),
        ("GPU … cannot be read: …", True),
        ("GPU … can not be read: …", False),
        ("registration is lost", False),
        ("…", False),
    ],
)
def test_only_the_programs_messages_stand_in_the_source(message: str, expected: bool) -> None:  # noqa: FBT001
    assert in_source(message) is expected


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
