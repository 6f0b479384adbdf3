"""Minimum-norm attacks in the evaluator: one search, one row without a radius and one per radius."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from segrobust.attacks.registry import ATTACKS
from segrobust.commands.evaluation import evaluate
from segrobust.commands.pictures import choose
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition, Row
from segrobust.core.seeds import image_seeds
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.studies.attack import plan_attacks, strongest
from tests.runs.toy_run import ToySource, flat_rows, toy_model
from tests.studies.sign_bisection import SignBisection, register

ROOT = Path(__file__).parents[2]

RUN = {"attacks": ["CEPGD", "SignBisection"], "eps": ["8/255", "2/255"], "steps": 5, "batch_size": 3}
RADII = [2 / 255, 8 / 255]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    register(monkeypatch)


def run(folder, **changes):
    return evaluate(toy_model(), ToySource(), work_dir=folder, **{**RUN, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        folder = tmp_path_factory.mktemp("runs") / "whole"
        return folder, run(folder)


def rows_by_key(folder):
    return {(row["name"], row["eps"], row["image"]): row for row in flat_rows(folder)}


def test_one_study_with_a_condition_per_radius_and_one_without():
    low, high, search = plan_attacks(RUN["attacks"], [*RUN["eps"], "2/255"][::-1], steps=5)
    assert (low.radii, high.radii, search.radii) == ((RADII[0],), (RADII[1],), (None, *RADII))
    assert search.attack.steps == 5 and not hasattr(search.attack, "eps")
    assert [one.title for one in search.conditions] == ["SignBisection", "SignBisection 2/255", "SignBisection 8/255"]
    assert search.passes == 3 + sum(search.attack.passes())
    (l2,) = plan_attacks([{"type": "SignBisection", "norm": "L2"}], ["2/255", 1.5])
    assert l2.budgets == (2 / 255, 1.5)
    with pytest.raises(UserError, match="CEPGD needs a radius"):
        plan_attacks(["CEPGD"], [])
    assert plan_attacks(["SignBisection"], [])[0].radii == (None,)


def test_rows_are_what_the_attack_returned(finished):
    rows = rows_by_key(finished[0])
    assert len(rows) == 7 * (1 + 2 + 3)
    model, source = toy_model(), ToySource()
    for ids in ([0], [1, 2]):
        images = torch.stack([source[i].image for i in ids])
        labels = torch.stack([source[i].label for i in ids])
        result = SignBisection(steps=5)(model, images, labels, seeds=image_seeds(0, ids), budgets=RADII)
        points = {None: result.images} | {one.eps: one.images for one in result.candidates}
        for n, i in enumerate(ids):
            smallest = rows["SignBisection", None, i]
            assert smallest["found"] is bool(result.found[n])
            assert smallest["distance"] == pytest.approx(float(result.distance[n]), abs=1e-9)
            assert smallest["distance_8bit"] == pytest.approx(float(result.distance_8bit[n]), abs=1e-9)
            assert smallest["error_of_correct"] == float(result.error_of_correct[n])
            for eps in points:
                row = rows["SignBisection", eps, i]
                with torch.no_grad():
                    wrong = (model(points[eps]).argmax(1)[n] != labels[n]) & (labels[n] != 255)
                assert sum(row["fn"]) == wrong.sum()
                assert row["distance"] <= (row["eps"] or 1) + 1e-7
                assert (row["forwards"], row["backwards"]) == (result.forwards[n], result.backwards[n])
            share = sum(smallest["fn"]) / (sum(smallest["fn"]) + sum(smallest["tp"]))
            assert (share >= 0.6) == smallest["found"]  # the attack's own answer agrees with what is predicted


def test_candidates_lose_more_at_larger_radii_and_enter_the_worst_case(finished):
    scores = {(r["name"], r["eps"]): r["aAcc"] for r in finished[1]}
    line = [scores["clean", None], *(scores["SignBisection", eps] for eps in RADII)]
    assert line == sorted(line, reverse=True) and line[0] > line[2]
    rows = rows_by_key(finished[0])
    for image in range(7):
        right = [sum(rows["SignBisection", eps, image]["tp"]) for eps in RADII]
        assert right[0] >= right[1]
    for eps in RADII:
        lowest = [min(sum(rows[name, eps, i]["tp"]) for name in ("CEPGD", "SignBisection")) for i in range(7)]
        total = sum(sum(row["tp"]) + sum(row["fn"]) for key, row in rows.items() if key[0] == "clean")
        assert scores["worst_case", eps] == pytest.approx(100 * sum(lowest) / total, abs=1e-4)


def test_the_record_agrees_with_the_rows(finished):
    (record,) = [r for r in finished[1] if "median_distance" in r]
    rows = [row for row in flat_rows(finished[0]) if row["name"] == "SignBisection" and row["eps"] is None]
    distances = [row["distance"] if row["found"] else math.inf for row in rows]
    assert [math.inf if d is None else d for d in record["distances"]] == pytest.approx(sorted(distances), abs=1e-8)
    median = np.median(distances)
    assert record["median_distance"] == (pytest.approx(median, abs=1e-8) if math.isfinite(median) else None)
    assert record["apsr"] == pytest.approx(100 - record["aAcc"], abs=1e-3)
    assert record["apsr_correct"] == pytest.approx(100 * np.mean([r["error_of_correct"] for r in rows]), abs=1e-3)
    assert record["found"] > 0 and set(record["ci"]) == {"aAcc", "mAcc", "mIoU", "median_distance"}
    assert [r["name"] for r in finished[1][:2]] == ["clean", "CEPGD"]  # the clean record stays the first
    assert "median_distance" not in finished[1][0]


@pytest.mark.parametrize("kept", [0, 1, 2, 4, 8, 9])
def test_a_kill_within_a_batch_is_made_good(finished, tmp_path, monkeypatch, kept):
    """The first batch of the minimum-norm attack has 9 rows; a kill leaves some, and part of one more."""
    run(tmp_path, attacks=["SignBisection"])
    path = tmp_path / "rows" / "rank-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 7 * 4
    path.write_bytes(b"".join(lines[: 7 + kept]) + lines[7 + kept][:40])
    computed = []
    original = Executor.rows

    def counting(self, study, batch):
        computed.append((study.name, tuple(batch)))
        return original(self, study, batch)

    monkeypatch.setattr(Executor, "rows", counting)
    run(tmp_path, attacks=["SignBisection"])
    again = [("SignBisection", batch) for batch in ((0, 1, 2), (3, 4, 5), (6,))]
    assert computed == again[kept == 9 :]
    wanted = [row for row in RunFolder(finished[0]).rows() if row.condition.name != "CEPGD"]
    assert RunFolder(tmp_path).rows() == wanted
    assert sorted(path.read_bytes().splitlines()) == sorted(line.rstrip() for line in lines)  # nothing twice


def test_a_radius_more_is_searched_for_again_and_changes_no_row(tmp_path, caplog):
    run(tmp_path, attacks=["SignBisection"], eps=["8/255"])
    before = RunFolder(tmp_path).rows()
    with caplog.at_level("WARNING"):
        run(tmp_path, attacks=["SignBisection"], eps=["2/255"])
    assert not caplog.records
    rows = RunFolder(tmp_path).rows()
    assert [row for row in rows if row.condition.eps != RADII[0]] == before
    run(tmp_path / "at once", attacks=["SignBisection"])
    grown, at_once = (flat_rows(folder) for folder in (tmp_path, tmp_path / "at once"))
    for row in (*grown, *at_once):  # each search also looks once more at the images of its radii
        del row["forwards"]
    assert grown == at_once


def test_batches_of_another_size_give_the_same_rows(finished, tmp_path):
    run(tmp_path, batch_size=4)
    ours, theirs = rows_by_key(tmp_path), rows_by_key(finished[0])
    assert ours.keys() == theirs.keys()
    for key, row in ours.items():
        assert [row[name] for name in ("tp", "fn", "found")] == [theirs[key][name] for name in ("tp", "fn", "found")]
        assert row["distance"] == pytest.approx(theirs[key]["distance"], abs=1e-7)


def test_images_and_pictures_of_a_run_with_minimum_norm_attacks_alone(tmp_path):
    run(tmp_path, attacks=["SignBisection", "UniformNoise"], save_adversarial=True)
    for name in ("SignBisection", "SignBisection_2-255", "SignBisection_8-255"):
        assert len(list((tmp_path / "adversarial" / name).glob("*.npy"))) == 7
    grid = json.loads((tmp_path / "images" / "grid.json").read_text())
    assert [(entry["attack"], entry["eps"]) for entry in grid] == [("SignBisection", None)] * len(grid)
    rows = rows_by_key(tmp_path)
    found = {i: rows["SignBisection", None, i] for i in range(7)}
    nearest = min((row["distance"] if row["found"] else math.inf, i) for i, row in found.items())[1]
    assert (grid[0]["rule"], grid[0]["image"]) == ("worst", nearest)
    assert grid[0]["max_perturbation"] == pytest.approx(found[nearest]["distance"], abs=1e-6)
    page = (tmp_path / "report.html").read_text()
    assert "Images not broken within eps" in page and "Minimum-norm attacks" in page


def test_without_radii_there_is_the_minimum_norm_result_alone(tmp_path):
    summary = run(tmp_path, attacks=["SignBisection"], eps=[])
    assert [(r["name"], r["eps"]) for r in summary] == [("clean", None), ("SignBisection", None)]
    assert "Images not broken within eps" in (tmp_path / "report.html").read_text()


def test_strongest_at_the_middle_radius_may_be_a_minimum_norm_attack():
    studies = plan_attacks(["CEPGD", "SignBisection"], RUN["eps"])
    records = [{"study": "attack", "name": "CEPGD", "eps": eps, "aAcc": 50.0} for eps in RADII]
    records += [{"study": "attack", "name": "SignBisection", "eps": eps, "aAcc": 40.0} for eps in RADII]
    study, condition = strongest(studies, records)
    assert (study.name, condition.name, condition.eps) == ("SignBisection", "SignBisection", RADII[1])
    records[1]["aAcc"] = 30.0
    assert strongest(studies, records)[0].name == "CEPGD"
    alone = plan_attacks(["SignBisection", {"type": "SignBisection", "apsr": 0.9}], [])
    medians = [{"study": "attack", "name": name, "eps": None, "median_distance": m} for name, m in
               (("SignBisection", None), ("SignBisection#2", 0.1))]  # fmt: skip
    assert strongest(alone, medians) == (alone[1], alone[1].conditions[0])


def test_pictures_by_distance():
    condition, counts = Condition("attack", "FMN"), {"tp": [1], "fn": [1]}
    rows = [Row(i, condition, counts, {"distance": d, "found": d < 1}) for i, d in enumerate([0.2, 0.1, 1.0])]
    assert choose(rows, by_distance=True) == {"worst": 1, "median": 0, "best": 2}


@pytest.mark.parametrize("name", ["ALMAProx", "FMN", "DDN", "DAG", "PDPGD"])
def test_the_real_ones(tmp_path, name):
    if name not in ATTACKS:
        pytest.skip(f"no {name} yet")
    norm = ATTACKS[name].norms[0]
    eps = ["2/255", "16/255"] if norm == "Linf" else [0.5, 2.0]
    spec = {"type": name, "norm": norm}
    summary = run(tmp_path, attacks=[spec], eps=eps, steps=12)
    kinds = [(r["name"], r["eps"] is None) for r in summary]
    assert kinds == [("clean", True), (name, True), (name, False), (name, False), *[("worst_case", False)] * 2]
    assert summary[2]["aAcc"] >= summary[3]["aAcc"]
