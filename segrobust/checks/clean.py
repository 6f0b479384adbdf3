"""Is the clean score that of a working model, on labels it knows? Where not, the usual mistakes are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segrobust.analysis.metrics import dense_counts, pooled
from segrobust.analysis.summary import Record
from segrobust.checks.context import FEWEST, Context
from segrobust.checks.verdicts import FAIL, PASS, WARN, Check, Skip, Verdict, graded, verdict
from segrobust.core.rows import CLEAN

IMAGES = 8
NEAR_ZERO = 5.0  # mIoU
CHANCE, RIGHT = 0.1, 0.3  # Cohen's kappa of predictions that say nothing of the labels, and of those that do
HELPS = 10.0  # points of mIoU
SHOWN = 6
MATCHED = 30.0  # mIoU that a reordering without any rule must reach: some fits even noise a little
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

INPUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "red and blue swapped": (
        lambda x: x.flip(1),
        "the network has its channels the other way round: change bgr_to_rgb, or flip them in front of it",
    ),
    "images normalised by ImageNet's mean and std": (
        lambda x: (x - MEAN.to(x)) / STD.to(x),
        "the network wants normalised images: give its mean and std",
    ),
    "ImageNet's mean and std undone": (
        lambda x: x * STD.to(x) + MEAN.to(x),
        "images are normalised twice: leave mean and std out, in the config or in the network",
    ),
    "images times 255": (
        lambda x: x * 255,
        "the network wants values up to 255: scale inside it, or give mean and std",
    ),
    "images divided by 255": (lambda x: x / 255, "the network divides by 255 itself: leave one of the two out"),
}
NO_HELP = "look at one image with its label and prediction: weights, normalisation, or ids of another labelling \
(labelIds in place of labelTrainIds, say)"

OTHER_IDS = "the labels have other ids than in training (labelIds?), or the classes another order: follow training"


class Try(NamedTuple):
    """A mistake that may have been made: what is done to see, pixels by label and prediction then, and what to do."""

    what: str
    confusion: np.ndarray
    remedy: str

    @property
    def score(self) -> float:
        """mIoU."""
        tp = self.confusion.diagonal()
        return float(np.nan_to_num(pooled(tp, self.confusion.sum(0) - tp, self.confusion.sum(1) - tp).mIoU))


def clean_score(context: Context) -> Verdict:
    """The clean score is the one the model is known for."""
    declared = (context.declared or {}).get("mIoU")
    if declared is None:
        raise Skip("no declared score; a config may have declared = dict(mIoU=PERCENT, images=NUMBER)")
    clean = _record(context)
    measured, interval = clean["mIoU"], clean["ci"]["mIoU"]
    # a part of the images may differ by chance: what lies beyond the interval counts, and it must be clear to fail
    whole = context.declared.get("images", clean["images"]) == clean["images"]
    if not whole and clean["images"] < FEWEST:
        raise Skip(f"declared on other images, and {clean['images']} are too few to compare (at least {FEWEST})")
    low, high = (measured, measured) if whole else interval
    beyond = max(low - declared, declared - high, 0.0)
    fail = 1.0 if whole else 1.0 + (high - low) / 2
    return verdict(
        graded(beyond, warn=0.3, fail=fail),
        f"clean mIoU {measured:.2f}, declared {declared:.2f}"
        + ("" if whole else f" on other images; 95 % interval here {low:.2f} to {high:.2f}"),
        "check normalisation, channel order, input size, label map and weights before believing any robust score",
        measured=measured,
        declared=declared,
        difference=abs(measured - declared),
        images=clean["images"],
    )


def _record(context: Context) -> Record:
    return next(record for record in context.summary if record["study"] == CLEAN)


def clean_plausible(context: Context) -> Verdict:
    """The clean score is that of a model, and no usual mistake explains a better one."""
    clean = _record(context)
    if clean["mIoU"] is None:
        raise Skip("nothing was measured: no pixel has a label")
    rows = [row for row in context.rows if row.condition == context.clean]
    tp, fp, fn = (counts.sum(0) for counts in dense_counts(rows, context.source.num_classes))
    agreement = _kappa(tp, tp + fp, tp + fn)
    poor = clean["mIoU"] < NEAR_ZERO or agreement < CHANCE
    numbers = {"mIoU": clean["mIoU"], "aAcc": clean["aAcc"], "kappa": agreement}
    if ((tp + fn) > 0).sum() == 1:
        name = context.source.class_names[int((tp + fn).argmax())]
        text = f"of {len(tp)} classes only {name!r} and void ({context.void}) occur in the labels"
        return verdict(WARN, text, f"is {context.void} a class there, such as the foreground?", **numbers)
    text = f"clean mIoU {clean['mIoU']:.2f}, aAcc {clean['aAcc']:.2f}, Cohen's kappa {agreement:.2f}"
    as_is, *tries = _tries(context, poor)
    best = max(tries, key=lambda one: one.score)
    numbers |= {"before": as_is.score, "tried": {one.what: one.score for one in tries}}
    found = best.confusion
    if best.score < as_is.score + HELPS or _kappa(found.diagonal(), found.sum(0), found.sum(1)) < RIGHT:
        text += f"; none of {len(tries)} usual mistakes explains it"
        return verdict(WARN if poor else PASS, text, f"the clean score is that of chance: {NO_HELP}", **numbers)
    few = min(IMAGES, len(context.ids))
    text += f"; mIoU on {few} of the images is {as_is.score:.2f}, but {best.score:.2f} with {best.what}"
    return verdict(FAIL if poor else WARN, text, best.remedy, **numbers)


def _kappa(right: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> float:
    """Agreement beyond chance (Cohen, 1960) from pixels per class: 0 for predictions that ignore the labels, 1 at most.

    1 as well where chance alone is always right.
    """
    pixels = max(truth.sum(), 1)
    chance = float((predicted / pixels * (truth / pixels)).sum())
    return (float(right.sum() / pixels) - chance) / (1 - chance) if chance < 1 else 1.0


def _tries(context: Context, poor: bool) -> list[Try]:
    """A few images as they are, and without each mistake."""
    as_is = _confusion(context, lambda images: images)
    tries = [Try("", as_is, "")]
    tries += [Try(what, _confusion(context, change), remedy) for what, (change, remedy) in INPUTS.items()]
    count = len(as_is)
    shift = "the labels are shifted by one: set reduce_zero_label as in training, and in one place"
    orders = (  # for every class the label that would stand for it
        ("labels one lower", [*range(1, count), None], shift),
        ("labels one higher", [None, *range(count - 1)], shift),
        ("classes in reverse order", range(count)[::-1], "give the classes in the order of training"),
    )
    tries += [Try(what, _relabelled(as_is, rows), remedy) for what, rows, remedy in orders]
    if poor:
        rows = _matched(as_is)
        moved = [f"{old} as {new}" for new, old in enumerate(rows) if new != old]
        what = f"the labels {', '.join(moved[:SHOWN])}{' and more' * (len(moved) > SHOWN)}"
        matched = Try(what, as_is[rows], OTHER_IDS)
        if matched.score >= MATCHED:
            tries.append(matched)
    return tries


def _confusion(context: Context, change: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Pixels by label and prediction, [K, K], on changed images."""
    count, left = context.source.num_classes, IMAGES
    found = np.zeros(count * count, dtype=np.int64)
    for group in context.groups:
        images, labels, ids = group.images[:left], group.labels[:left].cpu(), group.ids[:left]
        left -= len(ids)
        if len(ids):
            prediction = context.bench.predict(change(images), ids).cpu()
            valid = labels != context.void
            found += np.bincount((labels * count + prediction)[valid].numpy(), minlength=count * count)
    return found.reshape(count, count)


def _relabelled(confusion: np.ndarray, rows: Sequence[int | None]) -> np.ndarray:
    """The counts where class c has the label ``rows[c]``; None: no label is of that class."""
    found = np.zeros_like(confusion)
    for new, old in enumerate(rows):
        if old is not None:
            found[new] = confusion[old]
    return found


def _matched(confusion: np.ndarray) -> list[int]:
    """For every class the label that it predicts best, each label once: largest IoU first."""
    union = confusion.sum(0)[None] + confusion.sum(1)[:, None] - confusion
    iou = confusion / np.maximum(union, 1)
    rows: dict[int, int] = {}
    for label, predicted in zip(*np.unravel_index(np.argsort(-iou, axis=None, kind="stable"), iou.shape), strict=True):
        if label not in rows.values() and predicted not in rows:
            rows[int(predicted)] = int(label)
    return [rows[predicted] for predicted in range(len(iou))]


CHECKS = (
    Check("clean score as declared", clean_score),
    Check("clean score is plausible", clean_plausible, essential=True),
)
