"""Sizes of what pixels belong to, and rows that count by them, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segrobust.commands.evaluation import evaluate
from segrobust.runs.folder import RunFolder
from segrobust.studies.sizes import size_classes
from tests.runs.toy_run import RUN, ToySource, toy_model


def block(label, top, left, height, width, value):
    label[top : top + height, left : left + width] = value


def test_known_components():
    label = torch.zeros(1, 200, 200, dtype=torch.long)
    block(label[0], 0, 0, 32, 32, 1)  # 1024 pixels: small
    block(label[0], 0, 100, 25, 41, 1)  # 1025 pixels of the same class, apart: medium
    block(label[0], 100, 0, 96, 96, 2)  # 9216 pixels: medium
    found = size_classes(label)[0]
    assert found[0, 0] == 0 and found[0, 100] == 1 and found[150, 50] == 1 and found[60, 60] == 2
    assert [int((found == n).sum()) for n in range(3)] == [1024, 1025 + 9216, 200 * 200 - 1024 - 1025 - 9216]
    block(label[0], 100, 96, 1, 1, 2)  # one pixel more
    assert size_classes(label)[0, 150, 50] == 2


def test_pixels_that_touch_at_a_corner_are_of_one_component():
    label = torch.zeros(1, 100, 100, dtype=torch.long)
    block(label[0], 0, 0, 30, 30, 1)
    block(label[0], 30, 30, 30, 30, 1)
    assert set(size_classes(label)[label == 1].tolist()) == {1}


def test_rows_count_every_labelled_pixel_once_and_no_void_one(tmp_path):
    evaluate(toy_model(), ToySource(), work_dir=tmp_path / "run", **RUN)
    rows = RunFolder(tmp_path / "run").rows()
    for row in rows:
        totals = np.sum(row.extra["sizes"], axis=0).tolist()
        assert totals == [sum(row.counts["tp"]), sum(row.counts["tp"]) + sum(row.counts["fn"])]
        assert ("trace" in row.extra) == (row.condition.name == "TsallisPGD")
    evaluate(toy_model(), ToySource(), work_dir=tmp_path / "one", **{**RUN, "batch_size": 1})
    assert [row.extra for row in RunFolder(tmp_path / "one").rows()] == [row.extra for row in rows]
    records = RunFolder(tmp_path / "run").read_json("summary.json")
    attacked = [record for record in records if record["name"] == "TsallisPGD"]
    for record in attacked:
        curve, goal = record["convergence"], 100 - np.array(
            [100 * sum(row.counts["tp"]) / (sum(row.counts["tp"]) + sum(row.counts["fn"])) for row in rows
             if (row.condition.name, row.condition.eps) == (record["name"], record["eps"])])  # fmt: skip
        assert curve[-1][0] == record["backwards"] and curve[-1][1] == pytest.approx(goal.mean(), abs=1e-3)
