"""Attacks that return several candidates, in the evaluator: rows, records, resumed and shared out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.commands.evaluation import evaluate
from segrobust.core.seeds import image_seeds
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.studies.attack import plan_attacks
from tests.runs import toy_run
from tests.runs.toy_run import ToySource, flat_rows, toy_model

ROOT = Path(__file__).parents[2]
ATTACKS = ["SEA", "SharpPGD"]
RUN = {**toy_run.RUN, "attacks": ATTACKS}


def run(folder, **changes):
    return evaluate(toy_model(), ToySource(), work_dir=folder, **{**RUN, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(folder, save_adversarial=True)


def test_every_candidate_is_a_row_of_what_a_fresh_forward_counts(finished):
    rows = {(row["name"], row["eps"], row["image"], row["candidate"]): row for row in flat_rows(finished[0])}
    assert len(rows) == 7 * (1 + 2 * 4 + 2)
    model, source, eps = toy_model(), ToySource(), 8 / 255
    ids = [1, 2]  # a group of equal size in the first batch
    images = torch.stack([source[i].image for i in ids])
    labels = torch.stack([source[i].label for i in ids])
    result = build_attack("SEA", eps=eps, steps=5)(model, images, labels, seeds=image_seeds(0, ids))
    points = {"": result.images} | {one.name: one.images for one in result.candidates}
    assert set(points) == {"", "BalancedPGD", "MaskedPGD", "JSPGD"}
    for n, i in enumerate(ids):
        wrong = {}
        for name, batch in points.items():
            with torch.no_grad():
                wrong[name] = int(((model(batch).argmax(1)[n] != labels[n]) & (labels[n] != 255)).sum())
            row = rows["SEA", eps, i, name]
            assert sum(row["fn"]) == wrong[name] and (row["forwards"], row["backwards"]) == (24, 15)
        assert wrong[""] == max(wrong.values())


def test_records_and_pictures_are_those_of_the_answers(finished):
    records = {(record["name"], record["eps"]): record for record in finished[1]}
    assert len(records) == 1 + 3 * 2
    for eps in (2 / 255, 8 / 255):
        sea, single, worst = (records[name, eps] for name in ("SEA", "SharpPGD", "worst_case"))
        assert sea["images"] == worst["images"] == 7
        assert worst["mIoU_greedy"] <= sea["mIoU_greedy"] <= sea["mIoU"]
        assert worst["aAcc"] <= min(sea["aAcc"], single["aAcc"])
        assert worst["backwards"] == sea["backwards"] + single["backwards"] == 20
        assert "mIoU_greedy" not in single
    assert {path.name for path in (finished[0] / "adversarial").iterdir()} == {
        "SEA_2-255", "SEA_8-255", "SharpPGD_2-255", "SharpPGD_8-255"
    }  # fmt: skip
    chosen = json.loads((finished[0] / "images" / "grid.json").read_text())
    assert len({entry["image"] for entry in chosen}) == 3


def test_a_run_killed_between_two_candidates_is_completed(finished, tmp_path, monkeypatch):
    run(tmp_path)
    (file,) = (tmp_path / "rows").glob("rank-*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    candidate = next(one.id for one in RunFolder(tmp_path).conditions() if one.candidate == "JSPGD")
    cut = next(n for n, line in enumerate(lines) if candidate.encode() in line)
    file.write_bytes(b"".join(lines[:cut]))
    computed = []
    original = Executor.rows
    monkeypatch.setattr(
        Executor, "rows", lambda self, study, batch: computed.append(study.title) or original(self, study, batch)
    )
    run(tmp_path)
    assert "clean" not in computed and computed.count("SEA 2/255") == computed.count("SEA 8/255") == 3
    assert RunFolder(tmp_path).rows() == RunFolder(finished[0]).rows()


def test_the_data_sets_class_counts_reach_the_ensembles():
    counts = (3.0, 1.0, 4.0, 1.0)
    defaults = {"BalancedPGD": {"class_counts": list(counts)}}
    studies = plan_attacks(["SEA", "Standard", "BalancedSharpPGD", "JSPGD"], ["1/255"], defaults=defaults)
    assert [getattr(study.attack, "class_counts", None) for study in studies] == [counts, counts, counts, None]
    balanced = [one for one in studies[0].attack.members() if one.name == "BalancedPGD"]
    assert balanced[0].class_counts == counts


@pytest.mark.slow
def test_two_processes_give_the_same_rows(finished, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
    done = subprocess.run(
        [*command, "tests.runs.toy_run", str(tmp_path), *ATTACKS],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert all((tmp_path / "rows" / f"rank-{rank}.jsonl").stat().st_size for rank in range(2))
    assert RunFolder(tmp_path).rows() == RunFolder(finished[0]).rows()
