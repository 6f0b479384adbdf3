"""Integer counts of predicted classes against labels: what a row of a segmentation run is made of.

tp, fp, fn = confusion_counts(prediction, label, num_classes=11, ignore_index=255)
sparse_counts(tp[0], fp[0], fn[0])          # {"classes": [0, 3], "tp": [...], "fp": [...], "fn": [...]}
"""

from __future__ import annotations

import torch
from torch import Tensor

from segrobust.core.errors import UserError


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
