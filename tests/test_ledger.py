"""The table of an archive's finished items."""

import subprocess
import sys
from dataclasses import replace

import pytest

from rs_pipeline.errors import OutputError
from rs_pipeline.ledger import Key, Ledger, Row

ROW = Row("scenes/a", "v1", "s1", "done", 1, "2026-01-01T00:00:00+00:00", 2.5, "/out/a", "k1", "a", None)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "runs" / "archive.sqlite")


def test_what_is_entered_is_found_under_item_version_and_settings(ledger):
    assert ledger.rows() == {}
    assert ledger.find(ROW.key) is None
    assert not ledger.path.exists()
    others = [replace(ROW, version="v2"), replace(ROW, settings="s2"), replace(ROW, item="scenes/b", product=None, error="why")]
    for row in (ROW, *others):
        ledger.enter(row)
    assert ledger.find(ROW.key) == ROW
    assert ledger.rows() == {row.key: row for row in (ROW, *others)}
    assert ledger.find(Key("scenes/a", "v3", "s1")) is None


def test_an_item_tried_again_is_entered_anew(ledger):
    ledger.enter(replace(ROW, status="failed", error="no"))
    ledger.enter(replace(ROW, attempts=2))
    assert list(ledger.rows().values()) == [replace(ROW, attempts=2)]


def test_an_item_can_be_taken_out(ledger):
    other = replace(ROW, version="v2")
    ledger.enter(ROW)
    ledger.enter(other)
    ledger.forget(ROW.key)
    assert list(ledger.rows().values()) == [other]


def test_several_processes_enter_at_once(ledger):
    code = (
        "import sys; from pathlib import Path; from rs_pipeline.ledger import Ledger, Row\n"
        "for k in range(40): Ledger(Path(sys.argv[1])).enter(Row(f'{sys.argv[2]}{k}', 'v', 's', 'done', 1, '', 0.0, '', None, None, None))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(ledger.path), name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert {key.item for key in ledger.rows()} == {f"{name}{k}" for name in "abc" for k in range(40)}


def test_a_file_of_something_else_is_named(ledger):
    ledger.path.parent.mkdir()
    ledger.path.write_text("no table at all, and longer than a header of SQLite's is, so that it cannot be taken for an empty one")
    with pytest.raises(OutputError, match=r"archive\.sqlite \(file is not a database"):
        ledger.rows()
    with pytest.raises(OutputError, match="move the file away"):
        ledger.enter(ROW)
