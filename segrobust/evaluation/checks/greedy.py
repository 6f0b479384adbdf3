"""The worst mIoU of a set: mIoU is not a matter of each image alone, so it takes a search over the images' results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from segrobust.evaluation.metrics import dense_counts
from segrobust.evaluation.rows import Row


def lowest_miou(rows: Sequence[Row], num_classes: int) -> float:
    """Percent: the lowest pooled mIoU that exchanging one image's row at a time finds (Croce et al., 2024).

    Args:
        rows: the candidates, one or more of each image; the search starts from each image's lowest aAcc.
    """
    tp, fp, fn = dense_counts(rows, num_classes)
    candidates: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        candidates[row["image"]].append(index)
    chosen = {image: min(indices, key=lambda index: tp[index].sum()) for image, indices in candidates.items()}
    picked = list(chosen.values())
    present = (tp + fn)[picked].sum(0) > 0
    hit, union = tp[:, present], (tp + fp + fn)[:, present]
    hits, unions = hit[picked].sum(0), union[picked].sum(0)
    lowest, changed = np.mean(hits / unions), True
    while changed:
        changed = False
        for image, indices in candidates.items():
            rest_hits, rest_unions = hits - hit[chosen[image]], unions - union[chosen[image]]
            scores = ((rest_hits + hit[indices]) / (rest_unions + union[indices])).mean(1)
            if scores.min() < lowest:
                lowest, changed = scores.min(), True
                chosen[image] = indices[int(scores.argmin())]
                hits, unions = rest_hits + hit[chosen[image]], rest_unions + union[chosen[image]]
    return float(100 * lowest)
