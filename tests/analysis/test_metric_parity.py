"""The scores against those of mmseg's IoUMetric and torchmetrics, which share no code with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segrobust.analysis.metrics import class_iou, pooled
from segrobust.attacks.segmentation import confusion_counts

VOID = 255


def maps(kind):
    """Predictions and labels ``[4, 9, 11]`` of six classes."""
    generator = torch.Generator().manual_seed(5)
    shape = (4, 9, 11)
    label = torch.randint(6, shape, generator=generator)
    prediction = torch.where(torch.rand(shape, generator=generator) < 0.6, label, (label * 2 + 1) % 6)
    if kind != "all there":  # class 4 is nowhere in the labels
        label[label == 4] = 0
        label[torch.rand(shape, generator=generator) < 0.15] = VOID
        label[2] = VOID
    if kind == "absent":
        prediction[prediction == 4] = 0
    return prediction, label


def ours(prediction, label):
    """aAcc, mAcc and mIoU, and accuracy and IoU per class."""
    tp, fp, fn = (field.numpy().sum(0) for field in confusion_counts(prediction, label, 6, VOID))
    with np.errstate(invalid="ignore"):
        return pooled(tp, fp, fn), 100 * tp / (tp + fn), class_iou(tp, fp, fn)


KINDS = pytest.mark.parametrize("kind", ["all there", "absent", "predicted alone"])


@KINDS
def test_mmseg(kind):
    from mmseg.evaluation import IoUMetric

    prediction, label = maps(kind)
    areas = [IoUMetric.intersect_and_union(p, t, 6, VOID) for p, t in zip(prediction, label, strict=True)]
    theirs = IoUMetric.total_area_to_metrics(*(sum(area) for area in zip(*areas, strict=True)))
    scores, accuracy, iou = ours(prediction, label)
    assert scores.aAcc == pytest.approx(100 * theirs["aAcc"], abs=1e-4)
    assert scores.mAcc == pytest.approx(100 * np.nanmean(theirs["Acc"]), abs=1e-4)
    assert accuracy == pytest.approx(100 * theirs["Acc"], abs=1e-4, nan_ok=True)
    present = np.arange(6) != 4 if kind != "all there" else np.full(6, True)
    assert iou[present] == pytest.approx(100 * theirs["IoU"][present], abs=1e-4)
    assert np.isnan(iou[~present]).all()
    assert scores.mIoU == pytest.approx(100 * theirs["IoU"][present].mean(), abs=1e-4)
    if kind == "predicted alone":  # the one difference: there a class without ground truth is an IoU of 0 in the mean
        assert theirs["IoU"][4] == 0 and 100 * np.nanmean(theirs["IoU"]) == pytest.approx(scores.mIoU * 5 / 6, abs=1e-4)
    else:
        assert scores.mIoU == pytest.approx(100 * np.nanmean(theirs["IoU"]), abs=1e-4)


@KINDS
def test_torchmetrics(kind):
    functional = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    prediction, label = maps(kind)

    def theirs(metric, average):
        return 100 * metric(prediction, label, 6, average=average, ignore_index=VOID).double().numpy()

    accuracy, jaccard = functional.multiclass_accuracy, functional.multiclass_jaccard_index
    scores, own_accuracy, iou = ours(prediction, label)
    assert scores.aAcc == pytest.approx(theirs(accuracy, "micro"), abs=1e-4)
    assert np.nan_to_num(own_accuracy) == pytest.approx(theirs(accuracy, None), abs=1e-4)
    assert np.nan_to_num(iou) == pytest.approx(theirs(jaccard, None), abs=1e-4)
    alone = kind == "predicted alone"  # a class without ground truth then counts as 0 in its means
    assert scores.mIoU * (5 / 6 if alone else 1) == pytest.approx(theirs(jaccard, "macro"), abs=1e-4)
    assert scores.mAcc * (5 / 6 if alone else 1) == pytest.approx(theirs(accuracy, "macro"), abs=1e-4)
