"""What the daemon has written to the Node, in a file for later processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugin.reporting.record import LABELS, TAINTS, Record, condition_line, condition_types


def test_it_is_kept_line_by_line_and_gone_when_empty(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cluster-features"
    first = Record(path)
    assert first.read() == frozenset()
    first.add(LABELS, condition_line("A"), condition_line("B"))
    later = Record(path)
    assert condition_types(later.read()) == ("A", "B")
    later.add(TAINTS)
    later.remove(LABELS)
    assert Record(path).read() == {TAINTS, condition_line("A"), condition_line("B")}
    for line in list(later.read()):
        later.remove(line)
    assert not path.exists()
    assert later.problem == ""


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = Record(tmp_path / "file" / "cluster-features")
    record.add(LABELS)
    assert "cannot be recorded" in record.problem
    assert record.read() == {LABELS}


def test_lines_that_go_at_the_same_time_are_all_gone(tmp_path: Path) -> None:
    path = tmp_path / "cluster-features"
    for _ in range(20):
        record = Record(path)
        lines = [condition_line(str(number)) for number in range(8)]
        record.add(*lines)
        with ThreadPoolExecutor(len(lines)) as pool:
            list(pool.map(record.remove, lines))
        assert not path.exists()
