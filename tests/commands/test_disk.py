"""A full disk: one line, exit status 2, and what was computed stays."""

from __future__ import annotations

from segrobust.cli import main
from segrobust.runs.folder import RunFolder
from tests.runs.disk import room


def test_a_full_disk(world, finished, tmp_path, capsys):
    command = world.evaluate(tmp_path / "run")
    with room(6000):  # enough for the rows, too little for the report
        assert main(command) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith("segrobust: error: cannot write ") and not any("rror" in text for text in progress)
    assert line.endswith("report.html: File too large; its old content, if any, is kept")
    assert RunFolder(tmp_path / "run").rows() == RunFolder(finished).rows()
    times = (tmp_path / "run" / "rows" / "timing-0.jsonl").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "rows" / "timing-0.jsonl").read_bytes() == times  # nothing was computed again
