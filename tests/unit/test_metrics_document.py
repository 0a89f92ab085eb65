"""Metrics: what docs/metrics.md says of them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from plugin.web.metrics import dcgm
from plugin.web.metrics.scrape import FAMILIES
from plugin.web.metrics.subjects import CARD, DEVICE, HOLDER, IDENTITY
from tests.unit.metric_views import (
    full,
    promtool,
    samples,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/metrics.md"


# ---- documents

LABEL_SETS = {"device": DEVICE, "identity": IDENTITY, "holder": HOLDER, "card": CARD}


def rows() -> dict[str, list[str]]:
    """Rows of the document's tables by the name of the family they are about."""
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(?:mig_device_plugin_|DCGM_FI_)\w+` \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            name = match[0].strip("| `")
            assert name not in found
            found[name] = cells[1:]
    return found


def test_the_document_has_every_family_with_its_kind_and_labels() -> None:
    documented = {}
    for name, (kind, labels, *_) in rows().items():
        if not name.startswith("DCGM"):
            words = [word.strip() for word in labels.split(",") if word.strip() != "–"]
            written = [LABEL_SETS.get(word.strip("*"), (word.strip("`"),)) for word in words]
            documented[name] = (kind, [label for group in written for label in group])
    assert documented == {
        family.name: (family.kind.value, list(family.labels)) for family in FAMILIES
    }


def test_the_document_has_every_dcgm_name() -> None:
    assert {name for name in rows() if name.startswith("DCGM")} == {
        family.name for family in dcgm.FAMILIES
    }


def test_the_documents_numbers_of_series_are_right() -> None:
    """``2 r + 1`` and the like, for the node in which everything is known."""
    counts = {
        "d": 4,
        "a": 5,
        "g": 2,
        "r": 3,
        "k": 1,
        "m": 1,
        "h": 1,
        "w": 2,
        "x": 2,
        "f": 1,
        "s": 1,
        "n": 1,
        "u": 1,
        "q": 2,
    }
    found = Counter(
        re.sub(r"_(bucket|sum|count)$", "", s.name) if "duration" in s.name else s.name
        for s in samples(full())
    )
    for name, cells in rows().items():
        expected = 0
        for term in cells[-2].split("+"):
            factor, _, variable = term.strip().rpartition(" ")
            expected += int(factor or 1) * (
                counts[variable] if variable in counts else int(variable)
            )
        assert found[name] == expected, name


def queries() -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return [
        query
        for block in blocks
        for query in re.split(r"\n\s*\n", re.sub(r"^#.*\n", "", block, flags=re.MULTILINE))
    ]


def test_the_documents_queries_use_what_there_is() -> None:
    names = {family.name for family in (*FAMILIES, *dcgm.FAMILIES)}
    used = {
        name
        for query in queries()
        for name in re.findall(r"\b(?:mig_device_plugin_|DCGM_FI_)\w+", query)
    }
    assert used
    assert {
        re.sub(r"_duration_seconds_(bucket|sum|count)$", "_duration_seconds", name) for name in used
    } <= names


@promtool
def test_the_documents_queries_are_promql(tmp_path: Path) -> None:
    rules = "".join(
        f"  - record: test:query{n}\n    expr: |\n" + indent(query)
        for n, query in enumerate(queries())
    )
    file = tmp_path / "rules.yaml"
    file.write_text(f"groups:\n- name: queries\n  rules:\n{rules}", encoding="utf-8")
    check = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def indent(query: str) -> str:
    return "".join(f"      {line}\n" for line in query.strip().splitlines())
