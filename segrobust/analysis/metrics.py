"""Integer confusion counts per image and class, and the percentages pooled from them.

tp, fp, fn = confusion_counts(prediction, label, num_classes=11, ignore_index=255)
scores = pooled(tp.numpy(), fp.numpy(), fn.numpy())       # scores.aAcc, scores.mAcc, scores.mIoU in percent
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segrobust.core.errors import UserError
from segrobust.core.rows import Row


def dense_counts(rows: Sequence[Row], num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The counts of many rows as three int64 arrays [N, K].

    Raises:
        UserError: a row with a class that does not exist.
    """
    counts = [row.counts for row in rows]
    lengths = [len(of_row["classes"]) for of_row in counts]
    image = np.repeat(np.arange(len(rows)), lengths)
    classes = np.fromiter((c for of_row in counts for c in of_row["classes"]), dtype=np.int64, count=sum(lengths))
    if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
        raise UserError(f"rows with class {classes.max()}, but the run has {num_classes} classes; start with --fresh")
    dense = np.zeros((3, len(rows), num_classes), dtype=np.int64)
    for index, field in enumerate(("tp", "fp", "fn")):
        dense[index, image, classes] = [n for of_row in counts for n in of_row[field]]
    return dense[0], dense[1], dense[2]


class Scores(NamedTuple):
    """Percentages; NaN where there is no labelled pixel."""

    aAcc: np.ndarray
    mAcc: np.ndarray
    mIoU: np.ndarray


def class_iou(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """IoU per class in percent, [..., K]; NaN for classes without ground truth."""
    return 100 * share(tp, np.where(tp + fn > 0, tp + fp + fn, 0))


def pooled(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> Scores:
    """aAcc, mAcc and mIoU from counts [..., K] that are already summed over images; classes with ground truth only."""
    truth = tp + fn
    return Scores(
        100 * share(tp.sum(-1), truth.sum(-1)),
        _mean_of_present(100 * share(tp, truth)),
        _mean_of_present(class_iou(tp, fp, fn)),
    )


def share(part: np.ndarray, whole: np.ndarray, otherwise: np.ndarray | float = math.nan) -> np.ndarray:
    """``part / whole``, and ``otherwise`` where that is 0/0."""
    out = np.broadcast_to(otherwise, np.shape(whole)).astype(np.float64)
    return np.divide(part, whole, out=out, where=np.asarray(whole) > 0)


def _mean_of_present(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)
    return share(np.where(present, values, 0.0).sum(-1), present.sum(-1))[()]


def finite(value: float, digits: int = 4) -> float | None:
    """Rounded for a JSON file; null for what is not a finite number."""
    return round(float(value), digits) if math.isfinite(value) else None
