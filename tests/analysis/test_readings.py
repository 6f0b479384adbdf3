"""By size, by passes, by image and without background: from rows made by hand."""

from __future__ import annotations

import pytest

from segrobust.analysis.readings import convergence
from segrobust.analysis.summary import summarise
from tests.analysis.test_summary import accuracies, adding, row


def test_sizes_are_pooled_over_images():
    rows = adding(
        accuracies([90, 80], "clean", None),
        {"sizes": [[1, 4], [0, 0], [89, 96]]}, {"sizes": [[3, 4], [0, 0], [77, 96]]},
    )  # fmt: skip
    assert summarise(rows, 2)[0]["sizes"] == [
        {"upto": 1024, "right": 50.0, "pixels": 8},
        {"upto": 9216, "right": None, "pixels": 0},
        {"upto": None, "right": pytest.approx(100 * 166 / 192, abs=1e-4), "pixels": 192},
    ]
    assert "sizes" not in summarise([rows[0], *accuracies([1, 2], "clean", None)[1:]], 2)[0]  # rows of an older version


def test_the_curve_is_the_mean_over_images_of_what_each_had_by_then():
    traces = {"trace": [[2, 0.0], [4, 0.5]]}, {"trace": [[3, 0.5], [6, 1.0]]}
    rows = adding(accuracies([90, 80], "CEPGD", 0.1), *traces)
    assert convergence(rows) == [[3, 25.0], [4, 50.0], [6, 75.0]]
    unlabelled = row(2, "CEPGD", 0.1, trace=[[9, 0.0]])
    records = summarise([*rows, unlabelled], 2)
    assert records[0]["convergence"] == [[3, 25.0], [4, 50.0], [6, 75.0]] and "convergence" not in records[1]


def test_at_most_25_points_the_last_among_them():
    trace = [[n, n / 100] for n in range(1, 98)]
    curve = convergence(adding(accuracies([9], "CEPGD", 0.1), {"trace": trace}))
    assert [spent for spent, _ in curve] == [1 + 4 * n for n in range(25)] and curve[-1][1] == 97.0


def test_the_mean_of_images_is_not_the_pooled_score():
    rows = [row(0, tp=(8, 0), fp=(0, 2), fn=(2, 0)), row(1, tp=(10, 30), fp=(50, 0), fn=(0, 50)), row(2)]
    record = summarise(rows, 2)[0]
    assert record["mIoU_images"] == pytest.approx((80 + 100 * (10 / 60 + 30 / 80) / 2) / 2, abs=1e-4)
    assert record["mIoU"] == pytest.approx((100 * 18 / 70 + 100 * 30 / 82) / 2, abs=1e-4)


def test_without_background():
    rows = [row(0, tp=(10, 30), fp=(50, 0), fn=(0, 50))]
    assert summarise(rows, 2, class_names=("Background", "cat"))[0]["mIoU_without_background"] == 37.5
    assert "mIoU_without_background" not in summarise(rows, 2, class_names=("sky", "cat"))[0]
    alone = [row(0, tp=(10, 0))]
    assert summarise(alone, 2, class_names=("background", "cat"))[0]["mIoU_without_background"] is None
