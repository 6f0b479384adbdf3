"""Are the stored results whole and possible? Read from the row files and the stored images."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import torch

from segrobust.attacks.base import AttackContractError
from segrobust.checks.base import FAIL, PASS, Check, Verdict, verdict
from segrobust.checks.context import Context
from segrobust.core.rows import Row, row_key
from segrobust.core.threats import THREATS, allowed


def every_image_once(context: Context) -> Verdict:
    """One row per image, attack and radius, all of the same truth."""
    lines = [row for rows in context.raw.values() for row in rows]
    found = Counter(map(row_key, lines))
    doubled = sum(count - 1 for count in found.values())
    wanted = {key for job in context.jobs for image in range(len(context.source)) for key in job.keys(image)}
    truths: dict[int, set] = defaultdict(set)
    for row in lines:
        truths[row["image"]].add((row["name"], row["height"], row["width"], _truth(row)))
    unequal = sum(len(seen) > 1 for seen in truths.values())
    wrong = _wrong_labels(context, truths)
    numbers = {"rows": len(lines), "images": len(truths), "doubled": doubled, "missing": len(wanted - found.keys())}
    numbers |= {
        "unknown": len(found.keys() - wanted),
        "images_with_unequal_labels": unequal,
        "labels_unlike_the_data": wrong,
    }
    problems = [f"{numbers[name]} {name.replace('_', ' ')}" for name in list(numbers)[2:] if numbers[name]]
    if problems:
        remedy = "the row files were damaged or changed: start anew with --fresh"
        return verdict(FAIL, f"of {len(lines)} rows: {', '.join(problems)}", remedy, **numbers)
    text = f"{len(lines)} rows: each of {len(truths)} images once per attack and radius, always with the same labels"
    return verdict(PASS, text, **numbers)


def _truth(row: Row) -> tuple:
    """Labelled pixels per class, of the classes that have some."""
    pixels = zip(row["classes"], row["tp"], row["fn"], strict=True)
    return tuple((index, right + missed) for index, right, missed in pixels if right + missed)


def _wrong_labels(context: Context, truths: dict[int, set]) -> int:
    """Images of the subset whose rows count other labels than the data set has."""
    wrong = 0
    for group in context.groups:
        for image, label in zip(group.ids, group.measured().labels.cpu(), strict=True):
            classes, pixels = label[label != context.void].unique(return_counts=True)
            truth = tuple(zip(classes.tolist(), pixels.tolist(), strict=True))
            wrong += any(seen[-1] != truth for seen in truths.get(image, ()))
    return wrong


def within_budget(context: Context) -> Verdict:
    """Every attacked image inside its radius and the box."""
    if isinstance(context.error, AttackContractError):
        return verdict(FAIL, str(context.error), "the attack is defective: it must project to ball and box")
    bounded = [row for row in context.all_rows if row["eps"] is not None]  # further candidates included
    outside = [row for row in bounded if not row["distance"] <= allowed(row["norm"], row["eps"])]
    files, bad = _stored_images(context)
    excess = max((row["distance"] - row["eps"] for row in bounded), default=-math.inf)
    numbers = {"rows_outside": len(outside), "files": files, "files_outside": len(bad), "largest_excess": excess}
    if outside or bad:
        worst = bad[0] if bad else f"{outside[0]['attack']} image {outside[0]['image']}"
        text = f"{len(outside)} rows and {len(bad)} of {files} stored images lie outside their bounds ({worst})"
        return verdict(FAIL, text, "these are no results at that radius: run them again with --fresh", **numbers)
    stored = f", and so do {files} stored images" if files else "; no attacked images are stored"
    return verdict(PASS, f"all rows keep to their radius (largest excess {excess:.2g}){stored}", **numbers)


MOST_FILES = 256


def _stored_images(context: Context) -> tuple[int, list[str]]:
    """How many stored images were looked at, and which of them are no images or too far from the clean ones."""
    chosen = range(len(context.source)) if context.full or len(context.source) <= MOST_FILES else context.ids
    count, bad = 0, []
    tasks = [(job, eps) for job in context.jobs if job.attack for eps in job.radii]
    for image in chosen if any(context.folder.path.glob("adversarial/*/*.npy")) else ():
        clean = context.source[image].image
        for job, eps in tasks:
            file = context.evaluation._file(job, eps, image)
            if file.is_file():
                count += 1
                if not _is_attacked_image(np.load(file, allow_pickle=False), clean, job.attack.norm, eps):
                    bad.append(f"{file.parent.name}/{file.name}")
    return count, bad


def _is_attacked_image(stored: np.ndarray, clean: torch.Tensor, norm: str, eps: float | None) -> bool:
    if stored.shape != tuple(clean.shape) or not np.isfinite(stored).all() or stored.min() < 0 or stored.max() > 1:
        return False
    distance = float(THREATS[norm].distance((torch.from_numpy(stored) - clean)[None]))
    return eps is None or distance <= allowed(norm, eps)


CHECKS = (
    Check("every image once", every_image_once, essential=True),
    Check("within budget and box", within_budget, unfinished=True, essential=True),
)
