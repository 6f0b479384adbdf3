"""Which of an image's attacked versions counts: for aAcc, and for the mIoU of the whole data set.

    choice = choose(rows, num_classes)
    scores = choice.greedy            # rows, one per image: the lowest pooled mIoU that the search found

aAcc is a matter of each image alone. mIoU is not: whether a candidate lowers it depends on the other images. The
greedy search (Croce et al., 2024, arXiv 2306.12941) exchanges the candidate of one image at a time where the pooled
mIoU strictly falls. Only classes with ground truth in the whole set count, so that none comes or goes with a choice;
images come in a seeded order, again and again until nothing changes. All of it is computed from the integers in rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from segrobust.analysis.metrics import dense_counts, pooled
from segrobust.core.rows import ATTACK, CLEAN, Row

WORST_CASE = "worst_case"  # study and name of its records
ROUNDS = 1000


@dataclass(frozen=True)
class Choice:
    """Rows, one per image in the order of the images.

    by_accuracy: those with each image's lowest aAcc.
    by_image: those with each image's lowest own mIoU.
    greedy: what the search found; its pooled mIoU is at most that of the other two.
    """

    by_accuracy: list[Row]
    by_image: list[Row]
    greedy: list[Row]


class Candidates:
    """All rows that may count, as arrays over rows; a *selection* is one row index per image.

    Args:
        rows: in any order; those of one image belong together by ``row.image``.
    """

    def __init__(self, rows: Sequence[Row], num_classes: int) -> None:
        self.rows = sorted(rows, key=lambda row: row.order)
        tp, fp, fn = dense_counts(self.rows, num_classes)
        self.limit = np.array([_least_radius(row) for row in self.rows])
        ids, self.image = np.unique([row.image for row in self.rows], return_inverse=True)
        self.images = len(ids)
        self.accuracy, self.own_miou = (np.nan_to_num(part, nan=-1.0) for part in (pooled(tp, fp, fn)[::2]))
        truth = np.zeros((self.images, num_classes), dtype=np.int64)
        truth[self.image] = tp + fn  # the same for all rows of an image
        present = truth.sum(0) > 0
        self.hit, self.union = tp[:, present], (tp + fp + fn)[:, present]

    def within(self, eps: float) -> np.ndarray:
        """Indices of the rows whose images are at most ``eps`` from the clean ones."""
        return np.flatnonzero(self.limit <= eps)

    def lowest(self, pool: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The selection with each image's lowest score; of equal ones that with the largest radius, then the first."""
        order = pool[np.lexsort((pool, -self.limit[pool], score[pool], self.image[pool]))]
        first = np.unique(self.image[order], return_index=True)[1]
        return order[first]

    def miou(self, selection: np.ndarray) -> float:
        """Pooled mIoU in [0, 1]; 0 without any labelled pixel."""
        return float(_mean_iou(self.hit[selection].sum(0)[None], self.union[selection].sum(0)[None])[0])

    def greedy(self, pool: np.ndarray, start: np.ndarray, seed: int = 0) -> np.ndarray:
        """The selection that the search reaches from ``start``; every exchange strictly lowers the pooled mIoU."""
        selection = start.copy()
        order = pool[np.argsort(self.image[pool], kind="stable")]
        mine = np.split(order, np.searchsorted(self.image[order], np.arange(1, self.images)))
        hit, union = self.hit[selection].sum(0), self.union[selection].sum(0)
        rng = np.random.default_rng(seed)
        for _ in range(ROUNDS):
            changed = False
            for n in rng.permutation(self.images):
                rest_hit, rest_union = hit - self.hit[selection[n]], union - self.union[selection[n]]
                scores = _mean_iou(rest_hit + self.hit[mine[n]], rest_union + self.union[mine[n]])
                best = scores.argmin()
                if scores[best] < scores[mine[n] == selection[n]][0]:
                    selection[n] = mine[n][best]
                    hit, union = rest_hit + self.hit[selection[n]], rest_union + self.union[selection[n]]
                    changed = True
            if not changed:
                break
        return selection

    def choose(self, pool: np.ndarray, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The selections of a :class:`Choice`; the search starts from each of the first two and from ``known``."""
        by_accuracy, by_image = self.lowest(pool, self.accuracy), self.lowest(pool, self.own_miou)
        starts = [by_accuracy, by_image, *([] if known is None else [known])]
        return by_accuracy, by_image, min((self.greedy(pool, start) for start in starts), key=self.miou)

    def take(self, selections: Sequence[np.ndarray]) -> Choice:
        return Choice(*([self.rows[index] for index in selection] for selection in selections))


def choose(rows: Sequence[Row], num_classes: int) -> Choice:
    """The worst case over the conditions of the rows, whatever their radius."""
    candidates = Candidates(rows, num_classes)
    return candidates.take(candidates.choose(np.arange(len(candidates.rows))))


def lowest_accuracy(rows: Sequence[Row], num_classes: int, norm: str, eps: float) -> list[Row]:
    """One row per image, the worst case for aAcc: the lowest of all attacks under ``norm``, up to the radius."""
    return lowest_at_radii(rows, num_classes, norm, [eps])[0]


def lowest_at_radii(rows: Sequence[Row], num_classes: int, norm: str, radii: Sequence[float]) -> list[list[Row]]:
    """:func:`lowest_accuracy` at each of the radii."""
    candidates = Candidates(_attacked(rows, norm), num_classes)
    chosen = (candidates.lowest(candidates.within(eps), candidates.accuracy) for eps in radii)
    return [[candidates.rows[index] for index in indices] for indices in chosen]


def worst_choices(rows: Sequence[Row], num_classes: int) -> Iterator[tuple[str, float, Choice]]:
    """Norm, radius and choice, for every radius that an attack was run at; none where only controls were.

    A row is a candidate at its own radius and all larger ones, the closest images of a minimum-norm attack from their
    distance on, the clean images everywhere. So neither aAcc nor the greedy mIoU ever rises with the radius. Studies
    other than attacks take no part.
    """
    radii: dict[str, set[float]] = defaultdict(set)
    for condition in {row.condition for row in rows}:
        if condition.study == ATTACK and condition.eps is not None and not condition.control:
            radii[condition.norm].add(condition.eps)
    for norm in sorted(radii):
        candidates = Candidates(_attacked(rows, norm), num_classes)
        known = None
        for eps in sorted(radii[norm]):
            selections = candidates.choose(candidates.within(eps), known)
            known = selections[2]
            yield norm, eps, candidates.take(selections)


def _attacked(rows: Sequence[Row], norm: str) -> list[Row]:
    """The rows of the attacks under a norm, and of the clean images."""
    kinds = (CLEAN, None), (ATTACK, norm)
    return [row for row in rows if (row.condition.study, row.condition.norm) in kinds]


def _least_radius(row: Row) -> float:
    return row.extra.get("distance", 0.0) if row.condition.eps is None else row.condition.eps


def _mean_iou(hit: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Mean over the classes ``[M, P]``, each with ground truth and so with a union above 0."""
    return (hit / union).mean(1) if union.shape[1] else np.zeros(len(hit))
