"""Every image of a run: how much of it is right, clean and in the worst case at each radius, and which attack won."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segrobust.analysis.conditions import by_condition
from segrobust.analysis.metrics import dense_counts, pooled
from segrobust.analysis.worst_case import WORST_CASE, lowest_at_radii
from segrobust.core.errors import UserError
from segrobust.core.rows import ATTACK, CLEAN, Row
from segrobust.core.units import format_eps
from segrobust.report.runs import Run, shorten_paths
from segrobust.report.texts import EN_DASH, format_distance, with_norm


class ImageTable(NamedTuple):
    """Texts: a title per column, and per image as many cells, the hardest image first.

    reason: why there is no table.
    """

    titles: list[str]
    lines: list[list[str]]
    reason: str = ""


class _Column(NamedTuple):
    title: str
    cells: dict[int, str]


def image_table(run: Run) -> ImageTable:
    """The table of a run, from its rows; hardest: the lowest aAcc at the last radius, or clean where there is none."""
    try:
        rows = run.rows
        clean = [row for row in rows if row.condition.study == CLEAN]
        columns, hardness = _columns(run, rows, clean)
    except UserError as error:
        return ImageTable([], [], shorten_paths(str(error)))
    order = sorted((row.image for row in clean), key=lambda image: (hardness.get(image, math.inf), image))
    names = [shorten_paths(name) for name, _ in run.images]
    lines = [[names[image], *(column.cells.get(image, EN_DASH) for column in columns)] for image in order]
    return ImageTable(["image", *(column.title for column in columns)], lines)


def _columns(run: Run, rows: Sequence[Row], clean: Sequence[Row]) -> tuple[list[_Column], dict[int, float]]:
    accuracy, miou = (dict(zip((row.image for row in clean), score, strict=True)) for score in own_scores(run, clean))
    columns, hardness = [_percents("clean aAcc", accuracy), _percents("clean mIoU", miou)], accuracy
    for norm in run.norms:
        radii = [record["eps"] for record in run.at_radius(norm, WORST_CASE)]
        for eps, worst in zip(radii, lowest_at_radii(rows, run.num_classes, norm, radii), strict=True):
            hardness = dict(zip((row.image for row in worst), own_scores(run, worst)[0], strict=True))
            where = f"{norm} {format_eps(eps, norm)}"
            columns += [_percents(f"aAcc at {where}", hardness), _Column(f"attack at {where}", _names(worst))]
    for condition, members in by_condition(rows).items():
        if condition.study == ATTACK and condition.eps is None and not condition.candidate:
            cells = {row.image: _distance(row) for row in members if row.goal_counts[1]}
            columns.append(_Column(f"distance, {with_norm(condition.name, condition.norm)}", cells))
    return columns, hardness


def own_scores(run: Run, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """aAcc and mIoU of each row's image alone, in percent; inf without a labelled pixel, which says nothing."""
    if not rows:
        return [], []
    scores = pooled(*dense_counts(rows, run.num_classes))
    return tuple(np.nan_to_num(part, nan=np.inf).tolist() for part in (scores.aAcc, scores.mIoU))


def _percents(title: str, scores: dict[int, float]) -> _Column:
    return _Column(title, {image: f"{score:.2f}" for image, score in scores.items() if math.isfinite(score)})


def _names(rows: Sequence[Row]) -> dict[int, str]:
    """The attacks whose results these are; "none" where no attack made an image worse."""
    return {row.image: "none" if row.condition.study == CLEAN else row.condition.name for row in rows}


def _distance(row: Row) -> str:
    return format_distance(row.extra["distance"] if row.found else None, row.condition.norm)
