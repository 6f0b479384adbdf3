import numpy as np
import pytest

from segrobust.analysis.metrics import class_iou, pooled


def scores_by_loop(tp, fp, fn):
    accuracies, ious = [], []
    for c in range(len(tp)):
        if tp[c] + fn[c] > 0:
            accuracies.append(tp[c] / (tp[c] + fn[c]))
            ious.append(tp[c] / (tp[c] + fp[c] + fn[c]))
    return sum(tp) / (sum(tp) + sum(fn)) * 100, sum(accuracies) / len(accuracies) * 100, sum(ious) / len(ious) * 100


def test_scores_equal_the_loop_and_are_vectorised():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, (3, 20, 5))
    counts[0, 3:6, 1] = counts[2, 3:6, 1] = 0  # no ground truth of class 1 in some samples, yet it is predicted
    scores = pooled(*counts)
    for sample in range(20):
        expected = scores_by_loop(*counts[:, sample].tolist())
        assert [field[sample] for field in scores] == pytest.approx(expected, abs=1e-9)
        assert list(pooled(*counts[:, sample])) == pytest.approx(expected, abs=1e-9)


def test_class_iou_knows_absent_classes():
    iou = class_iou(np.array([5, 0, 0]), np.array([5, 3, 0]), np.array([0, 0, 2]))
    assert iou[0] == 50.0
    assert np.isnan(iou[1])
    assert iou[2] == 0.0


def test_no_labelled_pixel_gives_no_score():
    assert all(np.isnan(score) for score in pooled(np.zeros(3, int), np.zeros(3, int), np.zeros(3, int)))
