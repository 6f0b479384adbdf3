"""Integer confusion counts per image and class, and the percentages pooled from them.

tp, fp, fn = confusion_counts(prediction, label, num_classes=11, ignore_index=255)
scores = pooled(tp.numpy(), fp.numpy(), fn.numpy())       # scores.aAcc, scores.mAcc, scores.mIoU in percent
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.core.rows import Row


def confusion_counts(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255
) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives per class, over the pixels that are not void.

    Args:
        prediction: class ids [H, W] or [N, H, W]; at void pixels any value, without effect.
        label: class ids of the same shape; ``ignore_index`` (any integer, also one below ``num_classes``) is void.

    Returns:
        Three int64 tensors [K] or [N, K] on the CPU. fp[c]: predicted c, labelled otherwise; fn[c]: the reverse.

    Raises:
        UserError: a label outside [0, K) that is not void. ValueError: a prediction outside [0, K), or unequal shapes.
    """
    if prediction.shape != label.shape or label.ndim not in (2, 3):
        raise ValueError(f"expected two maps [H, W] or [N, H, W], got {[*prediction.shape]} and {[*label.shape]}")
    maps = label.reshape(-1, *label.shape[-2:]).long()
    count = len(maps)
    valid = maps != ignore_index
    truth = maps[valid]
    guess = prediction.reshape(maps.shape)[valid].long()
    _check_range(truth, guess, num_classes, ignore_index)
    offset = torch.arange(count, device=maps.device).mul(num_classes).view(-1, 1, 1).expand_as(maps)[valid]

    def per_class(ids: Tensor) -> Tensor:
        return torch.bincount(ids, minlength=count * num_classes).view(count, num_classes)

    tp = per_class((truth + offset)[truth == guess])
    fp = per_class(guess + offset) - tp
    fn = per_class(truth + offset) - tp
    shape = (*label.shape[:-2], num_classes)
    tp, fp, fn = torch.stack([tp, fp, fn]).cpu().view(3, *shape)
    return tp, fp, fn


def _check_range(truth: Tensor, guess: Tensor, num_classes: int, ignore_index: int) -> None:
    if truth.numel() == 0:
        return
    for value in (int(truth.min()), int(truth.max())):
        if not 0 <= value < num_classes:
            raise UserError(
                f"label {value} is neither a class (0 to {num_classes - 1}) nor void ({ignore_index}); "
                "check the data set's number of classes and its ignore_index"
            )
    if int(guess.min()) < 0 or int(guess.max()) >= num_classes:
        raise ValueError(f"predictions range from {int(guess.min())} to {int(guess.max())}, with {num_classes} classes")


def sparse_counts(tp: Tensor, fp: Tensor, fn: Tensor) -> dict[str, list[int]]:
    """The counts [K] of one image as the fields ``classes``, ``tp``, ``fp``, ``fn`` of its row."""
    classes = torch.nonzero(tp + fp + fn).flatten()
    fields = {"tp": tp, "fp": fp, "fn": fn}
    return {"classes": classes.tolist(), **{name: counts[classes].tolist() for name, counts in fields.items()}}


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
    return _percent(tp, np.where(tp + fn > 0, tp + fp + fn, 0))


def pooled(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> Scores:
    """aAcc, mAcc and mIoU from counts [..., K] that are already summed over images; classes with ground truth only."""
    truth = tp + fn
    return Scores(
        _percent(tp.sum(-1), truth.sum(-1)),
        _mean_of_present(_percent(tp, truth)),
        _mean_of_present(class_iou(tp, fp, fn)),
    )


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    share = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) > 0)
    return 100.0 * share


def _mean_of_present(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)
    total = np.where(present, values, 0.0).sum(-1)
    mean = np.full(np.shape(total), np.nan)
    np.divide(total, present.sum(-1), out=mean, where=present.any(-1))
    return mean[()]


def finite(value: float, digits: int = 4) -> float | None:
    """Rounded for a JSON file; null for what is not a finite number."""
    return round(float(value), digits) if math.isfinite(value) else None
