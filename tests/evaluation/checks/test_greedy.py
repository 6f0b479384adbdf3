"""The search for the lowest pooled mIoU against all combinations of a small set."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from segrobust.evaluation.checks.greedy import lowest_miou
from segrobust.evaluation.metrics import dense_counts, pooled


def made(seed: int, images: int = 4, attacks: int = 3, classes: int = 3) -> list[dict]:
    """Rows of made-up predictions; all rows of an image have the same labels."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        label = rng.integers(0, classes, 60)
        for _ in range(attacks):
            guess = np.where(rng.random(60) < rng.uniform(0.2, 0.9), label, rng.integers(0, classes, 60))
            hit = np.bincount(label[label == guess], minlength=classes)
            fp, fn = (np.bincount(one, minlength=classes) - hit for one in (guess, label))
            counts = {"tp": hit.tolist(), "fp": fp.tolist(), "fn": fn.tolist()}
            rows.append({"image": image, "classes": list(range(classes)), **counts})
    return rows


def miou(rows: list[dict]) -> float:
    return float(pooled(*(counts.sum(0) for counts in dense_counts(rows, 3))).mIoU)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_local_optimum_no_worse_than_the_per_image_choice(seed):
    rows = made(seed)
    by_image = [[row for row in rows if row["image"] == image] for image in range(4)]
    best = min(miou(list(choice)) for choice in product(*by_image))
    per_image = miou([min(mine, key=lambda row: sum(row["tp"])) for mine in by_image])
    found = lowest_miou(rows, 3)
    assert best - 1e-9 <= found <= per_image + 1e-9 and found - best < 0.5


def test_it_sees_what_the_per_image_choice_cannot():
    """The lower aAcc spares the rare class, the other row wipes it out."""
    common = {"image": 0, "classes": [0, 1]}
    rows = [
        {**common, "tp": [50, 10], "fp": [0, 40], "fn": [40, 0]},
        {**common, "tp": [90, 0], "fp": [10, 0], "fn": [0, 10]},
    ]
    assert miou(rows[:1]) == pytest.approx(100 * (50 / 90 + 10 / 50) / 2)
    assert lowest_miou(rows, 2) == pytest.approx(min(100 * (50 / 90 + 10 / 50) / 2, 100 * (90 / 100) / 2))
    rows = [
        {**common, "tp": [70, 10], "fp": [0, 20], "fn": [20, 0]},
        {**common, "tp": [85, 0], "fp": [10, 5], "fn": [5, 10]},
    ]
    assert lowest_miou(rows, 2) == pytest.approx(100 * (85 / 100) / 2)
