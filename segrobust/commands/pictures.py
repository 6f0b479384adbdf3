"""The pictures of a run: the worst, the median and the best image under the strongest attack, and maps of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segrobust.analysis.summary import Record, per_image_accuracy
from segrobust.core.files import replace_file
from segrobust.core.rows import Condition, Row
from segrobust.datasets.majority import colour_png, id_png
from segrobust.datasets.source import Source
from segrobust.report.pictures import write_grid
from segrobust.runs.executor import Executor
from segrobust.runs.progress import ImageProgress
from segrobust.studies.attack import AttackStudy, strongest
from segrobust.studies.bench import Bench

GRID = "images/grid.json"


def write_pictures(executor: Executor, summary: Sequence[Record], rows: Sequence[Row]) -> None:
    """Attack the chosen images once more, each on its own, and write ``images/`` with its ``grid.json``.

    Nothing is done where these pictures are there already.
    """
    folder, found = executor.folder, strongest(executor.studies, summary)
    if found is None:
        return
    study, condition = found
    chosen = choose([row for row in rows if row.condition == condition], by_distance=condition.eps is None)
    shown = folder.read_json(GRID) if (folder.path / GRID).exists() else []
    wanted = [(condition.name, condition.eps, image) for image in chosen.values()]
    if wanted == [(one["attack"], one["eps"], one["image"]) for one in shown]:
        return
    entries = []
    with ImageProgress(len(chosen)) as progress:
        progress.begin(f"pictures for the report, {condition.title}", len(chosen))
        for rule, image in chosen.items():
            entries.append(_entry(executor.bench, study, condition, rule, image))
            progress.advance(1, 1)
    write_grid(folder.path / "images", entries, executor.bench.source.palette, executor.bench.source.ignore_index)


def choose(rows: Sequence[Row], by_distance: bool = False) -> dict[str, int]:
    """Image ids by rule, from aAcc under the attack or from the distance, where what is not found is farthest.

    Images without a pixel that counts do not take part.
    """
    accuracy = per_image_accuracy(rows)
    score = [row.extra["distance"] if row.found else math.inf for row in rows] if by_distance else accuracy
    order = [rows[i].image for i in np.argsort(score, kind="stable") if rows[i].goal_counts[1]]
    chosen: dict[str, int] = {}
    for rule, place in (("worst", 0), ("median", len(order) // 2), ("best", -1)) if order else ():
        if order[place] not in chosen.values():
            chosen[rule] = order[place]
    return chosen


def _entry(bench: Bench, study: AttackStudy, condition: Condition, rule: str, image: int) -> dict:
    sample = bench.source[image]
    group = bench.group([image], [sample])
    points = next(made.images for made in study.perturbed(bench, group) if made.condition == condition)
    before, after = bench.predict(torch.cat([group.images, points]), [image, image]).cpu()
    return {
        "rule": rule,
        "image_id": image,
        "name": sample.name,
        "attack": condition.name,
        "eps": condition.eps,
        "image": sample.image.cpu(),
        "adversarial": points[0].cpu(),
        "label": sample.label.cpu(),
        "before": before,
        "after": after,
    }


def write_map(file: Path, ids: Tensor, source: Source) -> list[Path]:
    """A map of class ids as a PNG, and beside it in the classes' colours."""
    colours = file.with_name(f"{file.stem}-colours.png")
    replace_file(file, id_png(ids))
    replace_file(colours, colour_png(ids, source.palette, source.ignore_index))
    return [file, colours]
