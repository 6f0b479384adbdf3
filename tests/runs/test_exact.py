"""One, two and three processes: the same rows, bit for bit, each image once, and every process did its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segrobust.commands.evaluation import evaluate
from segrobust.runs.folder import RunFolder
from tests.runs.toy_run import RUN, ToySource, lines, toy_model, without_costs

ATTACKS = ("TsallisPGD", "ALMAProx", "FMN")  # random starts; minimum norms; the same with rows at radii
BATCHES = ([0, 1, 2], [3, 4, 5], [6])  # seven images in threes: an odd number, an uneven last batch


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of this very process."""
    folder = tmp_path_factory.mktemp("exact")
    evaluate(toy_model(), ToySource(), work_dir=folder, save_adversarial=True, **{**RUN, "attacks": ATTACKS})
    return folder


def images(folder: Path) -> dict[str, bytes]:
    """The attacked images, by file."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("adversarial/*/*.npy")}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_several_processes_give_the_same_rows(alone, tmp_path, repository, processes):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", "-m"]
    done = subprocess.run(
        [*command, "tests.runs.toy_run", str(tmp_path), *ATTACKS],
        cwd=repository, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    stored, expected = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path, alone))
    for rank in range(processes):
        said = (tmp_path / f"processes-{rank}.txt").read_text()
        assert said == f"{processes} {len(expected)}"  # so many there were, and each got the whole summary
        share = [image for batch in BATCHES[rank::processes] for image in batch]
        per_image = 1 + 2 + 2 * 3  # clean, two radii, and twice a minimum norm with two budgets
        assert sorted(json.loads(line)["image"] for line in lines(tmp_path, rank)) == sorted(share * per_image)
    assert len(lines(alone)) == 7 * per_image
    assert lines(tmp_path) == lines(alone)
    assert RunFolder(tmp_path).rows() == RunFolder(alone).rows()
    assert without_costs(stored) == without_costs(expected)
    assert len(images(alone)) == 7 * (per_image - 1) and images(tmp_path) == images(alone)
    identities = [RunFolder(folder).read_json("run.json")["identity"] for folder in (tmp_path, alone)]
    assert identities[0] == identities[1]
