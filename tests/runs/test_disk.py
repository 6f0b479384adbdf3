"""A disk that is full at every point of a run: one clear line each time, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.runs.folder import RunFolder
from tests.runs.disk import room
from tests.runs.killable import SERVER
from tests.runs.toy_run import RUN, ToySource, derived, lines, toy_model


def test_a_disk_that_is_full_again_and_again(tmp_path):
    """Every time there is a little more room, so that the run stops at another file, and then goes on."""
    settings = {**RUN, "attacks": ["TsallisPGD", "FMN"], "eps": ["8/255"], "steps": 3, "save_adversarial": True}
    evaluate(toy_model(), ToySource(), work_dir=tmp_path / "whole", **settings)
    folder, size, stopped = tmp_path / "run", 296, []
    model, source, kept = toy_model(), ToySource(), 0
    while True:
        try:
            with room(size):
                evaluate(model, source, work_dir=folder, **settings)
            break
        except UserError as error:
            name, _, rest = str(error).partition(": File too large; ")
            assert name.startswith(f"cannot write {folder}/") and rest and "\n" not in rest
            stopped.append(name.rpartition("/")[2])
        if (folder / "run.json").exists():
            rows = RunFolder(folder).rows()
            assert len(rows) >= kept
            kept = len(rows)
        size = size * 3 // 2
    assert {"run.json", "rank-0.jsonl", "report.html"} < set(stopped) and any(name.endswith(".npy") for name in stopped)
    assert lines(folder) == lines(tmp_path / "whole") and derived(folder) == derived(tmp_path / "whole")


def _evaluate_as_nobody(folder: Path, said) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)  # root may write everywhere
    try:
        evaluate(toy_model(), ToySource(), work_dir=folder, **RUN)
    except UserError as error:
        said.put(str(error))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Unlike tmp_path, one that others may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_run_folder_that_may_no_longer_be_written(public_folder):
    evaluate(toy_model(), ToySource(), work_dir=public_folder, **RUN)
    before = {file: file.stat().st_mtime_ns for file in public_folder.rglob("*")}
    (public_folder / "rows").chmod(0o555)
    for lock in public_folder.glob("rows/.lock-*"):
        lock.chmod(0o444)
    said = SERVER.SimpleQueue()
    process = SERVER.Process(target=_evaluate_as_nobody, args=(public_folder, said))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    advice = "check that the run folder can be written"
    assert said.get() == f"cannot open {public_folder}/rows/.lock-0: Permission denied; {advice}"
    (public_folder / "rows").chmod(0o755)
    assert {file: file.stat().st_mtime_ns for file in public_folder.rglob("*")} == before
