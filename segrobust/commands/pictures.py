"""Which images the report shows, by rule: the worst, the median and the best one under the strongest attack."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from segrobust.analysis.summary import WORST_CASE, Record, per_image_accuracy
from segrobust.report.pictures import write_grid
from segrobust.runs.progress import ImageProgress
from segrobust.studies.jobs import Job

RULES = ("worst", "median", "best")


def write_pictures(evaluation, summary: Sequence[Record], rows: Sequence[dict]) -> None:
    """Attack the chosen images once more, each on its own, and write ``images/`` with its ``grid.json``."""
    found = strongest(evaluation.jobs, summary)
    if found is None or (evaluation.folder.path / "images" / "grid.json").exists():
        return
    job, eps = found
    answers = [row for row in rows if (row["attack"], row["eps"]) == (job.label, eps) and not row.get("candidate")]
    chosen = choose(answers, by_distance=eps is None)
    entries = []
    with ImageProgress(len(chosen), done=0, work=len(chosen)) as progress:
        for rule, image in chosen.items():
            entries.append(_entry(evaluation, job, eps, rule, image))
            progress.advance(1, 1, f"pictures for the report, {job.title(eps)}")
    write_grid(evaluation.folder.path / "images", entries, evaluation.source.palette, evaluation.source.ignore_index)


def strongest(jobs: Sequence[Job], summary: Sequence[Record]) -> tuple[Job, float | None] | None:
    """The attack that lowers aAcc most (targeted: brings most pixels to their target) at the run's middle radius.

    In a run of minimum-norm attacks alone, the one with the smallest median distance, without a radius; None where
    no attack tries.
    """
    real = [job for job in jobs if job.attack and not job.attack.control]
    if not real:
        return None
    records = {(one["attack"], one["eps"]): one for one in summary if one["attack"] != WORST_CASE}
    if all(job.minimum_norm for job in real):
        medians = [records[job.label, None]["median_distance"] for job in real]
        order = sorted((math.inf if median is None else median, n) for n, median in enumerate(medians))
        return real[order[0][1]], None
    radii = sorted({job.radii[0] for job in real if not job.minimum_norm})
    middle = radii[len(radii) // 2]

    def left(job: Job) -> float:
        record = records[job.label, middle]
        return record["aAcc"] if record.get("apsr") is None else -record["apsr"]

    return min((job for job in real if middle in job.radii), key=left), middle


def choose(rows: Sequence[dict], by_distance: bool = False) -> dict[str, int]:
    """Image ids by rule, from aAcc under the attack or from the distance, where what is not found is farthest.

    Images without a labelled pixel do not take part.
    """
    accuracy = per_image_accuracy(rows)
    score = [row["distance"] if row["found"] else math.inf for row in rows] if by_distance else accuracy
    order = [rows[i]["image"] for i in np.argsort(score, kind="stable") if not np.isnan(accuracy[i])]
    if not order:
        return {}
    places = {"worst": 0, "median": len(order) // 2, "best": -1}
    chosen: dict[str, int] = {}
    for rule in RULES:
        if order[places[rule]] not in chosen.values():
            chosen[rule] = order[places[rule]]
    return chosen


def _entry(evaluation, job: Job, eps: float | None, rule: str, image: int) -> dict:
    sample = evaluation.source[image]
    group = evaluation.group([image], [sample])
    points = next(one.points for one in evaluation.outcomes(job, group) if one.eps == eps)
    before, after = evaluation.predict(torch.cat([group.images, points]), [image, image]).cpu()
    return {
        "rule": rule,
        "image_id": image,
        "name": sample.name,
        "attack": job.label,
        "eps": eps,
        "image": sample.image,
        "adversarial": points[0].cpu(),
        "label": sample.label,
        "before": before,
        "after": after,
    }
