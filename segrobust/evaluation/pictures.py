"""Which images the report shows, by rule: the worst, the median and the best one under the strongest attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from segrobust.evaluation.progress import ImageProgress
from segrobust.evaluation.summary import WORST_CASE, Record, per_image_accuracy
from segrobust.report.pictures import write_grid

RULES = ("worst", "median", "best")


def write_pictures(evaluation, summary: Sequence[Record], rows: Sequence[dict]) -> None:
    """Attack the chosen images once more, each on its own, and write ``images/`` with its ``grid.json``."""
    job = strongest(evaluation.jobs, summary)
    if job is None or (evaluation.folder.path / "images" / "grid.json").exists():
        return
    own = [row for row in rows if (row["attack"], row["eps"]) == (job.label, job.eps)]
    chosen = choose(own)
    entries = []
    with ImageProgress(len(chosen), done=0, work=len(chosen)) as progress:
        for rule, image in chosen.items():
            entries.append(_entry(evaluation, job, rule, image))
            progress.advance(1, 1, f"pictures for the report, {job.title}")
    write_grid(evaluation.folder.path / "images", entries, evaluation.source.palette, evaluation.source.ignore_index)


def strongest(jobs: Sequence, summary: Sequence[Record]):
    """The attack with the lowest aAcc at the middle radius of the run; None without a real attack."""
    real = [job for job in jobs if job.attack and not job.attack.control]
    if not real:
        return None
    radii = sorted({job.eps for job in real})
    accuracy = {(one["attack"], one["eps"]): one["aAcc"] for one in summary if one["attack"] != WORST_CASE}
    at_middle = [job for job in real if job.eps == radii[len(radii) // 2]]
    return min(at_middle, key=lambda job: accuracy[job.label, job.eps])


def choose(rows: Sequence[dict]) -> dict[str, int]:
    """Image ids by rule, from aAcc under the attack; images without a labelled pixel do not take part."""
    accuracy = per_image_accuracy(rows)
    order = [rows[i]["image"] for i in np.argsort(accuracy, kind="stable") if not np.isnan(accuracy[i])]
    if not order:
        return {}
    places = {"worst": 0, "median": len(order) // 2, "best": -1}
    chosen: dict[str, int] = {}
    for rule in RULES:
        if order[places[rule]] not in chosen.values():
            chosen[rule] = order[places[rule]]
    return chosen


def _entry(evaluation, job, rule: str, image: int) -> dict:
    sample = evaluation.source[image]
    clean, label = sample.image[None].to(evaluation.device), sample.label[None].to(evaluation.device)
    points, _ = evaluation.adversarial(job, clean, label, [image])
    before, after = evaluation.predict(torch.cat([clean, points])).cpu()
    return {
        "rule": rule,
        "image_id": image,
        "name": sample.name,
        "attack": job.label,
        "eps": job.eps,
        "image": sample.image,
        "adversarial": points[0].cpu(),
        "label": sample.label,
        "before": before,
        "after": after,
    }
